package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func (a *app) manCommand() *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write a man page for each command into a folder", Args: exactly(1),
		Example: `  idemq man ~/.local/share/man/man1 && man idemq-dlq-replay
  idemq completion bash > /etc/bash_completion.d/idemq     # completions, for bash, zsh, fish and powershell`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil { //nolint:gosec // others read man pages, too
				return fmt.Errorf("folder for the man pages: %w", err)
			}
			c.Root().DisableAutoGenTag = true // the same pages from the same program
			if err := doc.GenManTree(c.Root(), &doc.GenManHeader{Title: "IDEMQ", Section: "1", Source: "idemq"}, args[0]); err != nil {
				return fmt.Errorf("man pages: %w", err)
			}
			return nil
		},
	}
}
