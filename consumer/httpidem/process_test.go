package httpidem_test

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer/httpidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/internal/testserver"
)

// The environment of this test binary when it is to be a server.
const (
	envServerRedis  = "IDEMQ_HTTPIDEM_TEST_REDIS"
	envServerPrefix = "IDEMQ_HTTPIDEM_TEST_PREFIX"
	envServerLease  = "IDEMQ_HTTPIDEM_TEST_LEASE"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(envServerRedis); url != "" {
		if err := beServer(url, os.Getenv(envServerPrefix), os.Getenv(envServerLease)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	testserver.Main(m, testserver.VerifyLeaks())
}

// beServer serves until its standard input ends, which it does with the parent. The first line of its output is its address.
//
//	POST /items   guarded: counts its run in Redis, and answers when the gate is open
//	GET /claims   how many requests have claimed a key
//	POST /open    opens the gate
func beServer(url, prefix, lease string) error {
	opt, err := redis.ParseURL(url)
	if err != nil {
		return err
	}
	opt.ReadTimeout, opt.ContextTimeoutEnabled = time.Minute, true
	rdb := redis.NewClient(opt)
	defer func() { _ = rdb.Close() }()
	core := dedup.Config{}
	if core.Lease, err = time.ParseDuration(lease); err != nil {
		return err
	}
	core.StoreTimeout = core.Lease / 3 // the machine may be busy with other tests
	store := &counting{Store: redisstore.New(rdb, redisstore.Config{Prefix: prefix})}
	d, err := dedup.New(store.asAble(), core)
	if err != nil {
		return err
	}
	idem, err := httpidem.New(d, httpidem.Config{
		Principal: httpidem.SingleTenant, OnBusy: httpidem.Wait(time.Minute), ReplayOriginalStatus: true, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	gate := make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	mux := http.NewServeMux()
	mux.Handle("POST /items", idem(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := rdb.Incr(r.Context(), prefix+"runs").Err(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		<-gate
		w.Header().Set("X-Process", strconv.Itoa(os.Getpid()))
		created(w, r)
	})))
	mux.HandleFunc("GET /claims", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, store.acquires.Load()) })
	mux.HandleFunc("POST /open", func(http.ResponseWriter, *http.Request) { open() })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(l) }()
	fmt.Println(l.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
	open()
	return srv.Close()
}

// startProcess starts a server process, which ends with the test.
func startProcess(t *testing.T, url, prefix string, lease time.Duration) (*service, *os.Process) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0]) //nolint:gosec // this very test
	cmd.Env = append(os.Environ(), envServerRedis+"="+url, envServerPrefix+"="+prefix, envServerLease+"="+lease.String())
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait() // one test kills it
	})
	addr, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err, "the server did not start")
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	return &service{t: t, srv: &httptest.Server{URL: "http://" + strings.TrimSpace(addr)}, client: client}, cmd.Process
}

func (s *service) claims() int {
	n, err := strconv.Atoi(s.do(s.request(http.MethodGet, "/claims", "", "")).body)
	require.NoError(s.t, err)
	return n
}

// Two processes with one Redis, and 200 requests under one key that wait: the handler runs in one of the processes, once, and
// everybody gets its answer.
func TestTwoProcessesShareOneStore(t *testing.T) {
	t.Parallel()
	redisServer, prefix := testserver.Redis(t), fmt.Sprintf("httpidem-processes-%d:", time.Now().UnixNano())
	var services []*service
	for range 2 {
		s, _ := startProcess(t, redisServer.URL(), prefix, time.Minute)
		services = append(services, s)
	}
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		assert.Eventually(t, func() bool { return services[0].claims()+services[1].claims() >= parallel }, time.Minute, 10*time.Millisecond)
		for _, s := range services {
			s.do(s.request(http.MethodPost, "/open", "", ""))
		}
	}()
	answers := together(t, services, "k")
	<-opened
	fresh := 0
	for _, a := range answers {
		if !a.replayed() {
			fresh++
		}
		assert.Equal(t, http.StatusCreated, a.status)
		assert.Equal(t, "created x", a.body)
		assert.Equal(t, answers[0].header.Get("X-Process"), a.header.Get("X-Process"))
	}
	assert.Equal(t, 1, fresh)
	runs, err := redisServer.Client(t).Get(t.Context(), prefix+"runs").Int()
	require.NoError(t, err)
	assert.Equal(t, 1, runs)
	// Who waits is told, and does not claim again, but for the few whose reading ran into the time limit on a busy machine.
	assert.Less(t, services[0].claims()+services[1].claims(), 2*parallel)
}

// The process at work is killed. Who waits in the other one takes over when the lease is over; that the effect comes twice
// then is what only the handler's sink can bar.
func TestTheOtherProcessTakesOverAfterAKill(t *testing.T) {
	t.Parallel()
	redisServer, prefix := testserver.Redis(t), fmt.Sprintf("httpidem-kill-%d:", time.Now().UnixNano())
	const lease = 9 * time.Second
	first, process := startProcess(t, redisServer.URL(), prefix, lease)
	second, _ := startProcess(t, redisServer.URL(), prefix, lease)
	rdb := redisServer.Client(t)
	gone := make(chan error, 1)
	go func() { _, err := first.try(first.request(http.MethodPost, "/items", "k", "x")); gone <- err }()
	runs := func() int { n, _ := rdb.Get(t.Context(), prefix+"runs").Int(); return n }
	require.Eventually(t, func() bool { return runs() == 1 }, time.Minute, 10*time.Millisecond)
	second.do(second.request(http.MethodPost, "/open", "", ""))

	const waiting = 20
	answers := make([]answer, waiting)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() { answers[i], _ = second.try(second.request(http.MethodPost, "/items", "k", "x")) })
	}
	require.Eventually(t, func() bool { return second.claims() >= waiting }, time.Minute, 10*time.Millisecond)
	require.NoError(t, process.Kill())
	assert.Error(t, await(t, gone, "the end of the first one's connection"))
	wg.Wait()
	for _, a := range answers {
		assert.Equal(t, http.StatusCreated, a.status)
		assert.Equal(t, "created x", a.body)
	}
	assert.Equal(t, 2, runs())
}

// Two dedupers in one process, each with a client of its own, as two processes have.
func TestWaitersOfAnotherServerAreTold(t *testing.T) {
	t.Parallel()
	srv := testserver.Redis(t)
	g := newGate()
	services := make([]*service, 2)
	cfg := httpidem.Config{OnBusy: httpidem.Wait(time.Minute), ReplayOriginalStatus: true}
	prefix := fmt.Sprintf("httpidem-told-%d:", time.Now().UnixNano())
	for i := range services {
		store := redisstore.New(srv.Client(t), redisstore.Config{Prefix: prefix})
		services[i] = serveWith(t, store, unhurried, cfg, slowly(g))
	}
	claims := func() int64 { return services[0].store.acquires.Load() + services[1].store.acquires.Load() }
	go func() {
		assert.Eventually(t, func() bool { return claims() >= parallel }, time.Minute, time.Millisecond)
		close(g.open)
	}()
	for _, a := range together(t, services, "k") {
		assert.Equal(t, http.StatusCreated, a.status)
		assert.Equal(t, "created x", a.body)
		assert.Equal(t, "/items/1", a.header.Get("Location"))
	}
	assert.EqualValues(t, 1, services[0].runs.Load()+services[1].runs.Load())
	assert.Less(t, claims(), int64(2*parallel), "nobody asks again and again")
}
