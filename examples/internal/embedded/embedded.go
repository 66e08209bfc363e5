// Package embedded gives an example a NATS server, so that it runs on a fresh clone.
package embedded

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const startLimit = 20 * time.Second

// Connect connects to the server at url. If url is empty it starts one with JetStream in this process, on a free port of
// the loopback interface and a folder that closing removes.
func Connect(url string) (nc *nats.Conn, done func(), err error) {
	stop := func() {}
	if url == "" {
		if url, stop, err = start(); err != nil {
			return nil, nil, err
		}
	}
	// An answer that waited for a reconnect could come after the lease was lost: nothing is buffered.
	nc, err = nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectBufSize(-1))
	if err != nil {
		stop()
		return nil, nil, fmt.Errorf("cannot connect: %w; give the URL of a NATS server, or none to start one", err)
	}
	return nc, func() { nc.Close(); stop() }, nil
}

func start() (url string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "idemq-example-")
	if err != nil {
		return "", nil, err
	}
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true,
	})
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	stop = func() {
		s.Shutdown()
		s.WaitForShutdown()
		_ = os.RemoveAll(dir) // a folder for temporary files is where it lies
	}
	s.Start()
	if !s.ReadyForConnections(startLimit) {
		stop()
		return "", nil, fmt.Errorf("the embedded NATS server was not ready within %v", startLimit)
	}
	return s.ClientURL(), stop, nil
}
