package redisstore

import (
	"context"
	"embed"
	"fmt"
	"sync"

	"github.com/redis/go-redis/v9"
)

//go:embed scripts/*.lua
var sources embed.FS

// script returns a script behind the common part, record.lua.
func script(name string) *redis.Script {
	s := redis.NewScript(source("record") + "\n" + source(name))
	compactScripts[s] = redis.NewScript(source("record") + "\n" + source("compact") + "\n" + source(name))
	return s
}

func source(name string) string {
	b, err := sources.ReadFile("scripts/" + name + ".lua")
	if err != nil {
		panic(err) // embedded: it is there, or the build is broken
	}
	return string(b)
}

// compactScripts are the scripts that know of buckets, by those that do not.
var compactScripts = map[*redis.Script]*redis.Script{}

var (
	acquireScript    = script("acquire")
	extendScript     = script("extend")
	settleScript     = script("settle")
	releaseScript    = script("release")
	letterSentScript = script("letter_sent")
	forgetScript     = script("forget")
	reopenScript     = script("reopen")
	getScript        = script("get")
	saveStepScript   = script("save_step")
	stepsScript      = script("steps")
	adoptScript      = script("adopt")
)

// call is one run of a script.
type call struct {
	script *redis.Script
	keys   []string
	args   []any

	compare *comparison // in place of script and args
}

// reply is what came of a call. Its short is set if too few replicas have what the call wrote; the call was applied.
type reply struct {
	value      any
	err, short error
}

// maxSends is how often a call is sent in all: by its digest, with its text if the server does not know it, and once more
// if its key has moved to another server meanwhile.
const maxSends = 3

// run runs a script once for each call, all in one round trip, and waits for replicas if that is configured.
func (s *Store) run(ctx context.Context, sc *redis.Script, calls ...call) []reply {
	for i := range calls {
		calls[i].script = sc
	}
	return s.runCalls(ctx, calls)
}

// runCalls is run with scripts that may differ.
func (s *Store) runCalls(ctx context.Context, calls []call) []reply {
	replies, todo := make([]reply, len(calls)), make([]int, len(calls))
	b := batch{store: s, calls: calls, replies: replies}
	for i := range calls {
		todo[i] = i
		b.compares = b.compares || calls[i].compare != nil
		b.wait = b.wait || s.cfg.WaitReplicas > 0 && calls[i].script != getScript && calls[i].script != stepsScript
	}
	for n := 0; n < maxSends && len(todo) > 0; n++ {
		if err := ctx.Err(); err != nil {
			for _, i := range todo {
				replies[i] = reply{err: fmt.Errorf("%w: %w", errNotSent, err)}
			}
			break
		}
		b.send(ctx, todo)
		todo = b.refused(ctx, todo)
	}
	return replies
}

// batch is the calls of one run.
type batch struct {
	store    *Store
	calls    []call
	replies  []reply
	withText bool // a server did not know a script: the text goes along
	wait     bool
	compares bool
}

// send sends some of the calls. Without waiting for replicas the client finds each key's server; with it, the WAIT has to
// follow on the connection of the writes, so they go to each server on their own. So do settlements without a script, since
// the question who watches them is not one that a client could spread.
func (b *batch) send(ctx context.Context, todo []int) {
	if b.store.single || !b.wait && !b.compares {
		b.pipeline(ctx, b.store.rdb, todo)
		return
	}
	byNode := map[*redis.Client][]int{}
	for _, i := range todo {
		node, err := b.store.node(ctx, b.calls[i].keys[0])
		if err != nil {
			b.replies[i] = reply{err: err}
			continue
		}
		byNode[node] = append(byNode[node], i)
	}
	var wg sync.WaitGroup
	for node, some := range byNode {
		wg.Go(func() { b.pipeline(ctx, node, some) })
	}
	wg.Wait()
}

// pipeline sends some of the calls to one server, or lets the client spread them, with one WAIT behind them.
func (b *batch) pipeline(ctx context.Context, rdb redis.Cmdable, todo []int) {
	p := rdb.Pipeline()
	cmds := make([]*redis.Cmd, len(todo))
	for n, i := range todo {
		c := b.store.withBuckets(b.calls[i])
		if c.compare != nil {
			cmds[n] = c.compare.send(ctx, p, c.keys[0])
		} else if b.withText {
			cmds[n] = c.script.Eval(ctx, p, c.keys, c.args...)
		} else {
			cmds[n] = c.script.EvalSha(ctx, p, c.keys, c.args...)
		}
	}
	listeners, probe := b.listeners(ctx, p, todo), b.probe(ctx, p, todo)
	var wait *redis.Cmd
	if b.wait {
		wait = p.Do(ctx, "WAIT", b.store.cfg.WaitReplicas, millis(b.store.cfg.WaitTimeout))
	}
	_, _ = p.Exec(ctx) // each command has its own error
	var short error
	if wait != nil {
		short = b.store.short(wait.Int())
	}
	for n, i := range todo {
		v, err := cmds[n].Result()
		b.replies[i] = reply{value: v, err: err, short: short}
	}
	tell(ctx, rdb, listeners)
	if probe != nil {
		b.store.probed(probe)
	}
}

// refused returns the calls that were not run and are worth another try, and prepares it.
func (b *batch) refused(ctx context.Context, todo []int) (again []int) {
	moved := false
	for _, i := range todo {
		if b.calls[i].compare != nil && !b.compared(i) {
			again = append(again, i)
			continue
		}
		switch err := b.replies[i].err; {
		case redis.HasErrorPrefix(err, "NOSCRIPT"): // never loaded, or flushed, or the server was restarted
			b.withText = true
		case redis.HasErrorPrefix(err, "MOVED"): // seen only where a server was addressed directly
			moved = true
		default:
			continue
		}
		again = append(again, i)
	}
	if c, ok := b.store.rdb.(*redis.ClusterClient); ok && moved {
		c.ReloadState(ctx)
	}
	return again
}

// short is the error if the answer of WAIT is too small.
func (s *Store) short(n int, err error) error {
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errReplicas, err)
	case n < s.cfg.WaitReplicas:
		return fmt.Errorf("%w: %d of %d within %v", errReplicas, n, s.cfg.WaitReplicas, s.cfg.WaitTimeout)
	}
	return nil
}

// node returns the client of the server on which the key lives.
func (s *Store) node(ctx context.Context, key string) (*redis.Client, error) {
	switch c := s.rdb.(type) {
	case *redis.Client:
		return c, nil
	case *redis.ClusterClient:
		node, err := c.MasterForKey(ctx, key)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errNotSent, err)
		}
		return node, nil
	case *redis.Ring:
		node, err := c.GetShardClientForKey(key)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errNotSent, err)
		}
		return node, nil
	}
	return nil, errCannotWait
}
