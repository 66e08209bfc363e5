package main

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"

	"github.com/idemq/idemq/internal/testserver"
)

func TestRefusedBy(t *testing.T) {
	t.Parallel()
	assert.Nil(t, refusedBy(errors.New("Permissions Violation for Publish to \"x\"")), "only the client library's error counts")
	for text, want := range map[string]refusedError{
		`Permissions Violation for Publish to "a.b"`:                                  {publish: true, subject: `"a.b"`},
		`Permissions Violation for Publish to "a\"b \x1b"`:                            {publish: true, subject: `"a\"b \x1b"`},
		`Permissions Violation for Subscription to "_INBOX.x.*" using queue "q"`:      {subject: `"_INBOX.x.*"`},
		`Permissions Violation for Subscription to "_INBOX.x.*", too many tokens`:     {subject: `"_INBOX.x.*"`},
		`Permissions Violation for Publish with Reply of "$JS.API.CONSUMER.INFO.A.B"`: {text: "with Reply of"},
	} {
		got := refusedBy(fmt.Errorf("%w: %s", nats.ErrPermissionViolation, text))
		assert.Equal(t, want.publish, got.publish, text)
		assert.Equal(t, want.subject, got.subject, text)
		assert.Contains(t, got.Error(), or(want.subject, want.text), text)
	}
}

func TestWorkerSurvives(t *testing.T) {
	t.Parallel()
	for subject, survives := range map[string]bool{
		`"$JS.API.CONSUMER.CREATE.S.D"`: true, `"idemq.dead.S.D.permanent"`: true, `"$JS.API.STREAM.MSG.GET.S"`: true,
		`"$JS.API.CONSUMER.INFO.S.D"`: false, `"$JS.hub.API.CONSUMER.MSG.NEXT.S.D"`: false, `"$JS.API.STREAM.INFO.IDEMQ_DEAD"`: false,
	} {
		assert.Equal(t, survives, workerSurvives(&refusedError{publish: true, subject: subject}), subject)
	}
	assert.False(t, workerSurvives(&refusedError{subject: `"_INBOX.x.*"`}), "no answer would arrive")
}

func TestARefusedInboxIsNoTimeOut(t *testing.T) {
	t.Parallel()
	s := testserver.NATS(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "deaf", Password: "p", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: []string{">"}}, Subscribe: &server.SubjectPermission{Deny: []string{">"}},
		}}}
	})
	url := "nats://deaf:p@" + s.URL()[len("nats://"):]
	for _, args := range [][]string{
		{"publish", "orders.created", "--data", "x"},
		{"dlq", "ls"},
		{"consume", "--stream", "S", "--durable", "D", "--store", "memory://", "--exec", "true"},
	} {
		start := time.Now()
		p, code := idemq(t, append(args, "--nats", url)...)
		assert.Equal(t, exitFailed, code, args)
		assert.Contains(t, p.err.String(), `does not permit this user to subscribe to "_INBOX.`, args)
		assert.Less(t, time.Since(start), 10*time.Second, args)
	}
}
