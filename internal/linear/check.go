package linear

import (
	"context"
	"crypto/rand"
	"fmt"
	"math"
	randv2 "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/idemq/idemq/dedup"
)

// Config says how large a history is. Its zero value works.
type Config struct {
	Keys    int // defaults to 8
	Clients int // that call at the same time; defaults to 6
	Calls   int // of each client; defaults to 60
	// Faults says that answers get lost and calls come late. Leases are all endless then: a late copy of an Acquire whose
	// lease is over is a new claim, by the rules, but no single moment of the call explains both. Reopen and Forget are left out, since they carry no
	// nonce: a client that repeats them by itself sees what others have made of the first.
	Faults bool
	// Seed of the clients' choices; drawn and printed if it is 0. The interleaving is not decided by it.
	Seed uint64
	// Patience is how long the check of a history may take. Defaults to two minutes.
	Patience time.Duration
}

// Check runs clients against the store, and fails the test if no order of their calls explains the answers.
func Check(t testing.TB, s dedup.Store, c Config) {
	t.Helper()
	c = c.withDefaults()
	h := record(t.Context(), s, c)
	if c.Faults {
		t.Logf("%d calls, of which %d may or may not have been applied, and %d were not", len(h), count(h, answer.unknown), count(h, answer.failed))
	}
	verify(t, h, c)
}

func (c Config) withDefaults() Config {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.Keys, 8)
	def(&c.Clients, 6)
	def(&c.Calls, 60)
	if c.Seed == 0 {
		c.Seed = randv2.Uint64() | 1
	}
	if c.Patience == 0 {
		c.Patience = 2 * time.Minute
	}
	return c
}

func count(h []porcupine.Operation, is func(answer) bool) (n int) {
	for _, o := range h {
		if is(o.Output.(answer)) {
			n++
		}
	}
	return n
}

// verify checks each key on its own, so that what is shown of a broken history is short.
func verify(t testing.TB, h []porcupine.Operation, c Config) {
	t.Helper()
	m := model()
	keys := map[dedup.Key][]porcupine.Operation{}
	for _, o := range h {
		k := o.Input.(call).key
		keys[k] = append(keys[k], o)
	}
	for k, h := range keys {
		model := m.ToModel()
		result, info := porcupine.CheckOperationsVerbose(model, h, c.Patience)
		switch result {
		case porcupine.Ok:
			continue
		case porcupine.Unknown:
			t.Errorf("the check of %d calls of %s took longer than %v (seed %d)", len(h), k, c.Patience, c.Seed)
		default:
			t.Errorf("no order of the %d calls of %s explains their answers (seed %d); the record is atomic no more (I1, I2)\n%s", len(h), k, c.Seed,
				excerpt(model, info.PartialLinearizationsOperations()[0], h))
		}
		save(t, k, h, func(path string) error { return porcupine.VisualizePath(model, info, path) })
	}
}

// save keeps a broken history, as text and as a picture.
func save(t testing.TB, k dedup.Key, h []porcupine.Operation, draw func(path string) error) {
	t.Helper()
	dir := os.Getenv("IDEMQ_TEST_HISTORIES")
	if dir == "" {
		dir = os.TempDir()
	}
	name := strings.Map(func(r rune) rune {
		if strings.ContainsRune("/\\ :", r) {
			return '-'
		}
		return r
	}, fmt.Sprintf("history-%s-%s-%s", t.Name(), k.ID, rand.Text()[:6]))
	var text strings.Builder
	for _, o := range h {
		fmt.Fprintln(&text, line(o))
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path+".txt", []byte(text.String()), 0o600); err != nil {
		t.Log(err)
	}
	if err := draw(path + ".html"); err != nil {
		t.Log(err)
	}
	t.Logf("see %s.txt and %s.html", path, path)
}

// line is a call as text.
func line(o porcupine.Operation) string {
	end := fmt.Sprint(time.Duration(o.Return))
	if o.Return == math.MaxInt64 {
		end = "unknown"
	}
	return fmt.Sprintf("client %d, %v to %s: %s", o.ClientId, time.Duration(o.Call), end, describe(o.Input.(call), o.Output.(answer)))
}

// record lets the clients call, and returns what they did and saw.
func record(ctx context.Context, s dedup.Store, c Config) []porcupine.Operation {
	r := &recorder{store: s, begin: time.Now(), clients: c.Clients}
	scope := "linear/" + rand.Text()
	pools := make([]*pool, c.Keys)
	for i := range pools {
		pools[i] = &pool{key: dedup.Key{Scope: scope, ID: fmt.Sprintf("key-%d", i)}}
	}
	var wg sync.WaitGroup
	for id := range c.Clients {
		wg.Go(func() {
			cl := &client{id: id, random: randv2.New(randv2.NewPCG(c.Seed, uint64(id))), faults: c.Faults} //nolint:gosec // an index; no secret is drawn
			for range c.Calls {
				p := pools[cl.random.IntN(len(pools))]
				call := cl.choose(p)
				p.learn(call, r.do(ctx, cl, call))
			}
		})
	}
	wg.Wait()
	return r.history
}

// recorder calls the store and writes down when.
type recorder struct {
	store   dedup.Store
	begin   time.Time
	mu      sync.Mutex
	history []porcupine.Operation
	clients int // ids given so far
}

func (r *recorder) do(ctx context.Context, cl *client, c call) answer {
	from := time.Since(r.begin)
	a := perform(ctx, r.store, c)
	to := time.Since(r.begin)
	r.mu.Lock()
	defer r.mu.Unlock()
	o := porcupine.Operation{ClientId: cl.id, Input: c, Call: int64(from), Output: a, Return: int64(to)}
	if a.unknown() { // it may still happen, while its client goes on as another one
		o.Return = math.MaxInt64
		cl.id = r.clients
		r.clients++
	}
	r.history = append(r.history, o)
	return a
}

// perform makes the call. Whoever holds a history to the rules wants a store that can be looked into.
func perform(ctx context.Context, s dedup.Store, c call) (a answer) {
	look := s.(dedup.Inspector)
	switch c.kind {
	case acquire:
		a.verdict, a.record, a.err = s.Acquire(ctx, c.claim)
	case extend:
		lease := brief
		if c.endless {
			lease = endless
		}
		a.err = s.Extend(ctx, c.hold, lease)
	case settle:
		a.err = s.Settle(ctx, c.hold, c.settle)
	case release:
		a.err = s.Release(ctx, c.hold, c.release)
	case letterSent:
		a.err = s.LetterSent(ctx, c.key, c.hold.Fence)
	case get:
		a.record, a.err = look.Get(ctx, c.key)
	case forget:
		a.err = look.Forget(ctx, c.key, c.force)
	case reopen:
		a.reopening, a.err = look.Reopen(ctx, c.reopen)
	}
	a.record.Result = append([]byte(nil), a.record.Result...)
	return a
}
