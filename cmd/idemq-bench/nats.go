package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/spf13/cobra"
)

const natsCommandName = "nats-server"

// natsCommand is the process that startNATS starts.
func natsCommand() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use: natsCommandName, Hidden: true, Args: cobra.NoArgs,
		Short: "Run a NATS server until standard input ends; then remove the folder",
		RunE: func(c *cobra.Command, _ []string) error {
			if dir == "" {
				return usagef("--dir is missing")
			}
			s, err := server.NewServer(&server.Options{
				ServerName: "idemq-bench", Host: loopback, Port: server.RANDOM_PORT, JetStream: true,
				StoreDir: filepath.Join(dir, "nats"), NoLog: true, NoSigs: true,
			})
			if err != nil {
				return err
			}
			go s.Start()
			if !s.ReadyForConnections(serverStart) {
				return fmt.Errorf("not ready within %v", serverStart)
			}
			if _, err := fmt.Fprintln(c.OutOrStdout(), s.ClientURL()); err != nil {
				return err
			}
			ended := make(chan struct{})
			go func() { // of the process: a read of standard input cannot be ended
				defer close(ended)
				_, _ = io.Copy(io.Discard, c.InOrStdin())
			}()
			<-ended // whoever started us says when: a signal meant for both of us would come too early
			s.Shutdown()
			s.WaitForShutdown()
			return os.RemoveAll(dir)
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "folder for data, removed at the end")
	return c
}
