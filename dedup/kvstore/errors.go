package kvstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idemq/idemq/dedup"
)

// errConflict says that a compare-and-set found another revision, or another write under way. It never leaves the package.
var errConflict = errors.New("kvstore: the entry has changed meanwhile")

// errTooLarge goes into the StoreError for a record that the server does not take.
var errTooLarge = errors.New("the record is larger than a message may be (max_payload of the server, maximum value size of the bucket); keep a smaller result, or a reference to it")

// Codes of the server that the client library does not name.
const (
	codeMessageTooLarge jetstream.ErrorCode = 10054
	codeTTLInvalid      jetstream.ErrorCode = 10165
	codeTTLDisabled     jetstream.ErrorCode = 10166

	firstServerFault = 500
)

// isConflict knows both codes: a stream with replicas answers with the constant one, also while another write to the
// same subject is being agreed on.
func isConflict(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
		api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// readError is for a request that changes nothing. A caller that gave up gets its context's error; a time limit that ran
// out is the store's failure to answer.
func readError(op string, k dedup.Key, err error) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("kvstore: %s of %s: %w", op, k, context.Canceled)
	}
	return &dedup.StoreError{Op: op, Key: k, Err: err}
}

// writeError says of a failed write whether it can have been applied all the same.
func writeError(op string, k dedup.Key, err error, size int) error {
	if isConflict(err) {
		return errConflict
	}
	se := &dedup.StoreError{Op: op, Key: k, Indeterminate: true, Err: err}
	var api *jetstream.APIError
	switch {
	case errors.As(err, &api):
		se.Indeterminate = api.Code >= firstServerFault // refused, or something broke while it was at it
		switch api.ErrorCode {                          //nolint:exhaustive // the others are the default
		case codeMessageTooLarge:
			se.Err = fmt.Errorf("kvstore: %d bytes: %w: %w", size, errTooLarge, err)
		case codeTTLDisabled, codeTTLInvalid:
			se.Err = fmt.Errorf("kvstore: the bucket takes no time to live per message; it needs %s: %w", neededServer, err)
		}
	case errors.Is(err, nats.ErrMaxPayload):
		se.Indeterminate = false
		se.Err = fmt.Errorf("kvstore: %d bytes: %w: %w", size, errTooLarge, err)
	case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrNoResponders),
		errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionDraining):
		se.Indeterminate = false // nobody got it
	}
	return se
}
