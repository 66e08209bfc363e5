package natsidem_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer"
	"github.com/idemq/idemq/consumer/natsidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/kvstore"
	"github.com/idemq/idemq/internal/testserver"
	"github.com/idemq/idemq/publisher"
)

// A worker process with a handler of three external calls dies by SIGKILL between them, and a second one takes over. Each
// call is a line in a file of its own.

const crashSteps = "IDEMQ_CRASH_STEPS"

var threeCalls = []string{"reserve", "charge", "ship"}

func TestKillBetweenSteps(t *testing.T) {
	t.Parallel()
	for at, again := range map[string]string{
		"behind reserve": "", "behind charge": "", "behind ship": "",
		"without steps behind charge": "reserve charge", // the control: it repeats what was done
		"within charge":               "charge",         // the honest edge: done, and nobody was told
	} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			srv := testserver.NATS(t)
			js, err := jetstream.New(srv.Conn(t))
			require.NoError(t, err)
			ctx := t.Context()
			_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
			require.NoError(t, err)
			_, err = js.CreateConsumer(ctx, "ORDERS", jetstream.ConsumerConfig{
				Durable: "billing", AckPolicy: jetstream.AckExplicitPolicy, AckWait: crashLease, MaxDeliver: -1,
			})
			require.NoError(t, err)
			msg := nats.NewMsg("orders.created")
			msg.Header.Set(publisher.KeyHeader, "order-4711")
			_, err = js.PublishMsg(ctx, msg)
			require.NoError(t, err)

			effects := filepath.Join(t.TempDir(), "effects")
			work := func(at string) error {
				ctx, cancel := context.WithTimeout(ctx, time.Minute)
				defer cancel()
				cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestStepsWorker$")
				cmd.Env = append(os.Environ(), crashSteps+"="+srv.URL(), crashAt+"="+at, crashEffect+"="+effects)
				out, err := cmd.CombinedOutput()
				if err != nil {
					return fmt.Errorf("%w\n%s", err, out)
				}
				return nil
			}
			var exit *exec.ExitError
			require.ErrorAs(t, work(at), &exit, "the worker must die, else this shows nothing")
			require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal())
			mode := ""
			if strings.HasPrefix(at, "without steps") {
				mode = "without steps"
			}
			require.NoError(t, work(mode), "the second worker ends by itself")

			lines, err := os.ReadFile(effects)
			require.NoError(t, err)
			for _, name := range threeCalls {
				want := 1 + strings.Count(" "+again+" ", " "+name+" ")
				assert.Equal(t, want, strings.Count(string(lines), name+"\n"), name)
			}
			store, err := kvstore.New(ctx, js, kvstore.Config{})
			require.NoError(t, err)
			k := dedup.Key{Scope: "ORDERS/billing", ID: "order-4711"}
			r, err := store.Get(ctx, k)
			require.NoError(t, err)
			assert.Equal(t, dedup.Consumed, r.State)
			assert.Equal(t, 2, r.Attempt)
		})
	}
}

// TestStepsWorker is the worker process; as a test of its own it has nothing to do.
func TestStepsWorker(t *testing.T) {
	url, at := os.Getenv(crashSteps), os.Getenv(crashAt)
	if url == "" {
		return
	}
	nc, err := nats.Connect(url)
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	kv, err := kvstore.New(t.Context(), js, kvstore.Config{})
	require.NoError(t, err)
	d, err := dedup.New(kv, dedup.Config{Lease: crashLease})
	require.NoError(t, err)
	external := func(_ context.Context, name string) (string, error) {
		f, err := os.OpenFile(os.Getenv(crashEffect), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return "", err
		}
		defer func() { _ = f.Close() }()
		_, err = fmt.Fprintln(f, name)
		dieIf(at == "within "+name)
		return "receipt of " + name, err
	}
	handler := consumer.HandlerFunc(func(ctx context.Context, _ *consumer.Message) error {
		for _, name := range threeCalls {
			call := func(ctx context.Context) (string, error) { return external(ctx, name) }
			var receipt string
			if strings.HasPrefix(at, "without steps") {
				receipt, err = call(ctx)
			} else {
				receipt, err = dedup.Step(ctx, name, call)
			}
			if err != nil {
				return err
			}
			if receipt != "receipt of "+name {
				return consumer.Permanent(fmt.Errorf("step %s has another one's result: %s", name, receipt))
			}
			dieIf(at == "behind "+name || at == "without steps behind "+name)
		}
		return nil
	})
	w, err := natsidem.New(js, "ORDERS", "billing", d, handler, natsidem.Config{IdleExit: crashLease / 2})
	require.NoError(t, err)
	require.NoError(t, w.Run(t.Context()))
}
