package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/idemq/idemq/internal/localredis"
)

// demoServers gives the demo servers of its own for what was not given, and says in one line which there are.
func (a *app) demoServers(ctx context.Context, dir string, natsGiven bool) (stop func(), err error) {
	stop = func() {}
	natsNote, storeNote := "given", "given"
	if natsGiven {
		if _, err := a.link(); err != nil {
			return nil, err
		}
	} else {
		s, err := startNATS(filepath.Join(dir, "nats"), -1, false)
		if err != nil {
			return nil, err
		}
		stop = func() { s.Shutdown(); s.WaitForShutdown() }
		a.useServer(s.ClientURL())
		natsNote = "embedded"
	}
	if a.store == "" {
		redis, address, err := localredis.Start(ctx, dir, false)
		if ctx.Err() != nil {
			if err == nil {
				redis.Kill()
			}
			stop()
			return nil, fmt.Errorf("the demo was ended before it was done: %w", context.Cause(ctx))
		}
		if err == nil {
			a.store, storeNote = address, "redis-server from PATH, started for this demo"
			stopNATS := stop
			stop = func() { redis.Kill(); stopNATS() }
		} else {
			a.store, storeNote = storeKV, "JetStream KV, since "+err.Error()
		}
	}
	fmt.Fprintf(a.notes(), "store: %s (%s); nats: %s (%s)\n", redact(a.store), storeNote, redact(a.nats), natsNote)
	return stop, nil
}
