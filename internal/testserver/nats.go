package testserver

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const (
	// natsStartLimit bounds a start, including the recovery of streams.
	natsStartLimit = 20 * time.Second

	// reconnectWait is how soon a test's connection tries again.
	reconnectWait = 20 * time.Millisecond

	// The server would otherwise derive its limits from the machine.
	natsMaxMemory = 1 << 30
	natsMaxStore  = 8 << 30
)

// errShared tells who stops what is not theirs.
var errShared = errors.New("testserver: other tests use the shared NATS server too; take testserver.NATS to stop one")

// NATSServer is a NATS server with JetStream inside the test process. Its
// methods may be called from several goroutines.
type NATSServer struct {
	shared bool

	mu   sync.Mutex
	opts *server.Options // with the port of the first start
	srv  *server.Server  // nil while stopped
}

// NATS starts a server of the test's own: JetStream in a directory of the test,
// a random port on 127.0.0.1, no log. Each opt may change the server's options
// before the start. The server is stopped when the test ends.
func NATS(t testing.TB, opts ...func(*server.Options)) *NATSServer {
	t.Helper()
	s, err := startNATS(t.TempDir(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	return s
}

func startNATS(dir string, opts ...func(*server.Options)) (*NATSServer, error) {
	o := &server.Options{
		ServerName:            "testserver",
		Host:                  "127.0.0.1",
		Port:                  server.RANDOM_PORT,
		NoLog:                 true,
		NoSigs:                true,
		DisableShortFirstPing: true,
		JetStream:             true,
		JetStreamMaxMemory:    natsMaxMemory,
		JetStreamMaxStore:     natsMaxStore,
		StoreDir:              dir,
	}
	for _, opt := range opts {
		opt(o)
	}
	s := &NATSServer{opts: o}
	if err := s.start(); err != nil {
		return nil, err
	}
	return s, nil
}

// URL is where the server listens. It stays the same over restarts.
func (s *NATSServer) URL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("nats://%s", net.JoinHostPort(s.opts.Host, fmt.Sprint(s.opts.Port)))
}

// Conn returns a connection that reconnects for as long as the test runs and is
// closed when it ends. Each opt overrides these defaults.
func (s *NATSServer) Conn(t testing.TB, opts ...nats.Option) *nats.Conn {
	t.Helper()
	defaults := []nats.Option{
		nats.Name(t.Name()),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(0, 0),
	}
	nc, err := nats.Connect(s.URL(), append(defaults, opts...)...)
	if err != nil {
		t.Fatalf("testserver: connect to NATS: %v", err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Stop shuts the server down and returns when it is gone. Its data stays for
// [NATSServer.Start]. Stopping a stopped server does nothing; stopping the
// server of [SharedNATS] panics, because other tests use it too.
func (s *NATSServer) Stop() {
	if s.shared {
		panic(errShared)
	}
	s.stop()
}

// Start starts a stopped server again, on the same port with the same data.
func (s *NATSServer) Start(t testing.TB) {
	t.Helper()
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
}

// Restart stops the server and starts it again, on the same port with the same
// data.
func (s *NATSServer) Restart(t testing.TB) {
	t.Helper()
	s.Stop()
	s.Start(t)
}

func (s *NATSServer) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.srv != nil {
		return errors.New("testserver: the NATS server is running already")
	}
	srv, err := server.NewServer(s.opts.Clone())
	if err != nil {
		return fmt.Errorf("testserver: configure NATS: %w", err)
	}
	srv.Start()
	if !srv.ReadyForConnections(natsStartLimit) {
		srv.Shutdown()
		srv.WaitForShutdown()
		return fmt.Errorf("testserver: NATS was not ready within %v", natsStartLimit)
	}
	if addr, ok := srv.Addr().(*net.TCPAddr); ok {
		s.opts.Port = addr.Port
	}
	s.srv = srv
	return nil
}

func (s *NATSServer) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.srv == nil {
		return
	}
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
	s.srv = nil
}
