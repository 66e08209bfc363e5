// Command idemq-bench measures what deduplication costs a consumer: nothing at all, what people write themselves, Watermill,
// and idemq in its modes, in one run on servers that it starts. See "idemq-bench --help".
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
