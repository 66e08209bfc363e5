package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/idemq/idemq/dedup/memstore"
)

// remembered is how much memory a remembered key takes.
type remembered struct {
	Where  string  `json:"where"`
	About  string  `json:"about"`
	Group  string  `json:"group"`
	Keys   int     `json:"keys"`
	Bytes  int64   `json:"memory_bytes"`
	PerKey float64 `json:"bytes_per_key"`
}

// place is somewhere to remember keys.
type place struct {
	where, about string
	group        group
	used         func(ctx context.Context) (int64, error) // bytes
	fill         func(ctx context.Context, keys int) error
	drop         func(ctx context.Context) error
}

// measureMemory fills each place and looks how much it has grown.
func measureMemory(ctx context.Context, s settings, srv *servers, p *progress) (all []remembered, err error) {
	b, err := newBench(ctx, s, srv)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.close(ctx)) }()
	places := b.places()
	p.begin(len(places))
	for _, pl := range places {
		p.step("%s: %s keys", pl.where, count(float64(s.keys)))
		before, err := pl.used(ctx)
		if err != nil {
			return nil, err
		}
		if err := pl.fill(ctx, s.keys); err != nil {
			return nil, err
		}
		after, err := pl.used(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, remembered{
			Where: pl.where, About: pl.about, Group: string(pl.group), Keys: s.keys, Bytes: after - before, PerKey: float64(after-before) / float64(s.keys),
		})
		if err := pl.drop(ctx); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (b *bench) places() []place {
	inRedis := func(ctx context.Context) (int64, error) { return usedMemory(ctx, b.rdb) }
	all := []place{{
		"setnx", "what is usual: a name with the id, and a token of 16 bytes", groupUsual, inRedis,
		func(ctx context.Context, keys int) error { return fillNaively(ctx, b.rdb, keys) }, b.flush,
	}}
	for _, l := range redisLayouts {
		all = append(all, place{
			"redisstore, " + l.name, l.about, groupOurs, inRedis,
			func(ctx context.Context, keys int) error { return fill(ctx, l.store(b.rdb, fillPrefix), 0, keys) }, b.flush,
		})
	}
	var store *memstore.Store
	return append(all, place{
		"memstore", "in the memory of this process", groupOurs,
		func(context.Context) (int64, error) { return heap(), nil },
		func(ctx context.Context, keys int) error {
			store = memstore.New(memstore.Config{})
			if err := fill(ctx, store, 0, keys); err != nil {
				return err
			}
			if got := store.Len(); got != keys {
				return fmt.Errorf("memstore holds %d keys of %d", got, keys)
			}
			return nil
		},
		func(context.Context) error { runtime.KeepAlive(store); store = nil; return nil },
	})
}

// heap is what is alive in this process.
func heap() int64 {
	var m runtime.MemStats
	for range 2 { // what finalizers and pools hold goes with the second
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // far below
}

const token = "0123456789abcdef"

// fillNaively remembers keys as people do.
func fillNaively(ctx context.Context, rdb *redis.Client, keys int) error {
	for from := 0; from < keys; from += fillBatch {
		_, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i := from; i < min(from+fillBatch, keys); i++ {
				p.Set(ctx, "dedup:orders:"+fillID(i), token, fillRetention)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("fill the store: %w", err)
		}
	}
	return nil
}

func (t *table) memory(all []remembered) {
	t.linef("\nMemory for a remembered key: ids of 36 characters; all but setnx keep fence, attempt and fingerprint")
	var rows []row
	for _, r := range all {
		rows = append(rows, row{cells: []string{
			r.Where, count(float64(r.Keys)), fmt.Sprintf("%.1f", float64(r.Bytes)/(1<<20)), fmt.Sprintf("%.0f", r.PerKey),
			fmt.Sprintf("%.1f", r.perDay()/(1<<30)),
		}})
	}
	t.grid([]string{"where", "keys", "MiB", "bytes a key", fmt.Sprintf("GiB for a day at %s/s", count(dayRate))}, rows)
	for _, r := range all {
		t.linef("  %s: %s", r.Where, r.About)
	}
}

// dayRate is the rate for which the table says what a day of retention takes.
const dayRate = 1000

// perDay is the memory for a day of messages at that rate.
func (r remembered) perDay() float64 { return dayRate * (24 * time.Hour).Seconds() * r.PerKey }
