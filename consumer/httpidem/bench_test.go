package httpidem_test

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer/httpidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/memstore"
)

// BenchmarkMiddleware sends the same requests of 256 bytes, without a network, to a bare handler and to the guarded one:
// each with a new key, and with a key that was consumed. The difference to "bare" is what the middleware and memstore cost.
// Keys are forgotten after a second, so that the collector's work at millions of kept records is not what is measured:
//
//	go test ./consumer/httpidem -run '^$' -bench Middleware -benchmem
func BenchmarkMiddleware(b *testing.B) {
	payload := bytes.Repeat([]byte("x"), 256)
	bare := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			b.Error(err)
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(payload)
	})
	d, err := dedup.New(memstore.New(memstore.Config{}), dedup.Config{Lease: time.Second, Retention: time.Second})
	require.NoError(b, err)
	idem, err := httpidem.New(d, httpidem.Config{Principal: httpidem.SingleTenant})
	require.NoError(b, err)
	guarded := idem(bare)
	keys := 0
	for _, c := range []struct {
		name    string
		handler http.Handler
		step    int
	}{{"bare", bare, 1}, {"new", guarded, 1}, {"duplicate", guarded, 0}} {
		b.Run(c.name, func(b *testing.B) {
			key := make([]string, 1)
			content := bytes.NewReader(payload)
			r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, "/cart/items", content)
			require.NoError(b, err)
			r.Pattern, r.Header[httpidem.KeyHeader] = "POST /cart/items", key
			w := &discard{header: http.Header{}}
			b.ReportAllocs()
			begun := cpu(b)
			for b.Loop() {
				keys += c.step
				key[0] = strconv.Itoa(keys)
				clear(w.header)
				content.Reset(payload)
				c.handler.ServeHTTP(w, r)
			}
			b.ReportMetric(float64((cpu(b)-begun).Nanoseconds())/float64(b.N), "CPU-ns/op")
		})
	}
}

// discard is a ResponseWriter that costs nothing.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}

// cpu returns the CPU time that the process has used: unlike the time it takes, that does not depend on what else runs.
func cpu(tb testing.TB) time.Duration {
	var u syscall.Rusage
	require.NoError(tb, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
