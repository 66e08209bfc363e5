package redisstore

import (
	"fmt"
	"math"

	"github.com/idemq/idemq/dedup"
)

// What goes into the header line of a record is checked before: a space or a newline there would make the record
// unreadable for everybody.

const maxText = 64 // bytes of a nonce or a class, as in dedup.DecodeRecord

// word says whether s can be a field of the header line. The dash stands for an empty one.
func word(s string) bool {
	if s == "" || s == "-" || len(s) > maxText {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] < 0x21 || s[i] > 0x7E {
			return false
		}
	}
	return true
}

func invalidNonce(n dedup.Nonce) error {
	if !word(string(n)) {
		return fmt.Errorf("%w: the nonce must have 1 to %d visible ASCII characters", errInvalid, maxText)
	}
	return nil
}

func invalidClass(c dedup.Class) error {
	if c != "" && !word(string(c)) {
		return fmt.Errorf("%w: the class of the cause must have at most %d visible ASCII characters", errInvalid, maxText)
	}
	return nil
}

func invalidReopen(q dedup.ReopenRequest) error {
	if q.Generation < 0 || q.Generation >= math.MaxInt32 {
		return fmt.Errorf("%w: the generation is %d", errInvalid, q.Generation)
	}
	return nil
}
