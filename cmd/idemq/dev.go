package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/spf13/cobra"
)

const (
	loopback    = "127.0.0.1"
	serverStart = 20 * time.Second
)

// startNATS starts an embedded server with JetStream on disk. What is written survives SIGKILL; with syncAlways it also
// survives a machine that stops.
func startNATS(dir string, port int, syncAlways bool) (*server.Server, error) {
	if err := tryPort(port); err != nil {
		return nil, err
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "idemq-dev", Host: loopback, Port: port, JetStream: true, StoreDir: dir, SyncAlways: syncAlways,
		NoLog: true, NoSigs: true,
	})
	if err != nil {
		return nil, fmt.Errorf("embedded NATS server: %w", err)
	}
	go s.Start()
	if !s.ReadyForConnections(serverStart) {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, fmt.Errorf("the embedded NATS server was not ready on %s:%d within %v", loopback, port, serverStart)
	}
	return s, nil
}

// tryPort finds out at once what the server would only say by never being ready.
func tryPort(port int) error {
	l, err := net.Listen("tcp", net.JoinHostPort(loopback, strconv.Itoa(max(port, 0))))
	if err != nil {
		return fmt.Errorf("cannot listen on %s:%d: %w; choose another port with --port", loopback, port, err)
	}
	return l.Close()
}

func (a *app) devCommand() *cobra.Command {
	var dir string
	var port int
	c := &cobra.Command{
		Use: "dev", Short: "Run a NATS server with JetStream for trying things out", Args: exactly(0),
		Long: "Runs an embedded NATS server with JetStream on disk, on 127.0.0.1. What it stores survives restarts, and SIGKILL too.",
		Example: `  idemq dev
  idemq dev --data ./nats-data --port 4333`,
		RunE: func(c *cobra.Command, _ []string) error {
			if port < -1 || port > 65535 {
				return usagef("--port %d: use 1 to 65535, or -1 for any free one", port)
			}
			if dir == "" {
				base, err := os.UserCacheDir()
				if err != nil {
					return fmt.Errorf("no folder for data: %w; choose one with --data", err)
				}
				dir = filepath.Join(base, "idemq", "dev")
			}
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return fmt.Errorf("cannot use --data: %w", err)
			}
			unlock, err := lockFolder(dir)
			if err != nil {
				return err
			}
			defer unlock()
			s, err := startNATS(dir, or(port, -1), true)
			if err != nil {
				return err
			}
			if a.json {
				err = a.print(map[string]string{"nats": s.ClientURL(), "data": dir})
			} else {
				_, err = fmt.Fprintf(a.out, "NATS with JetStream on %s, data in %s\n\n  export NATS_URL=%s\n  export IDEMQ_STORE=kv\n\nEnd it with Ctrl-C.\n",
					s.ClientURL(), dir, s.ClientURL())
			}
			<-c.Context().Done()
			s.Shutdown()
			s.WaitForShutdown()
			return err
		},
	}
	c.Flags().StringVar(&dir, "data", "", "folder for data (default in the user's cache folder)")
	c.Flags().IntVar(&port, "port", 4222, "port to listen on; -1 for any free one")
	return c
}
