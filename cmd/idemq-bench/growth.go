package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// grown is what a Redis that remembers so many keys did, beside one that remembers few.
type grown struct {
	Layout   string  `json:"layout"`
	Keys     int     `json:"keys"`
	Rate     spread  `json:"messages_per_second"`
	Beside   spread  `json:"messages_per_second_beside"` // of the one that remembers few
	Ratio    spread  `json:"ratio"`
	CPU      float64 `json:"redis_cpu_us_per_message"` // medians: they tell more than the rate on a machine that is busy
	CPUOfFew float64 `json:"redis_cpu_us_per_message_beside"`
	Memory   int64   `json:"memory_bytes"` // of the server, for these keys
	PerKey   float64 `json:"bytes_per_key"`
	FilledIn float64 `json:"fill_seconds"`
}

// measureGrowth fills a server tenfold, time and again, and each time takes the worker through the same messages on it and on
// a server that stays small, in turns: so it is the keys that tell the two apart, and not what else the machine does.
func measureGrowth(ctx context.Context, s settings, srv *servers, p *progress) (all []grown, err error) {
	smallRedis, smallURL, err := srv.secondRedis(ctx, s.aof)
	if err != nil {
		return nil, err
	}
	large, err := newBench(ctx, s, srv)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, large.close(ctx)) }()
	small, err := newBenchOn(ctx, s, srv, smallURL, smallRedis)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, small.close(ctx)) }()
	sizes := growthSizes(s.keys)
	p.begin(len(redisLayouts) * len(sizes) * (1 + s.rounds))
	for _, l := range redisLayouts {
		for _, b := range []*bench{large, small} {
			if err := b.flush(ctx); err != nil {
				return nil, err
			}
		}
		if err := fill(ctx, l.store(small.rdb, fillPrefix), 0, smallestGrowth); err != nil {
			return nil, err
		}
		empty, err := usedMemory(ctx, large.rdb)
		if err != nil {
			return nil, err
		}
		known := 0
		for _, size := range sizes {
			g := grown{Layout: l.name, Keys: size}
			p.step("%s: up to %s keys", l.name, count(float64(size)))
			begun := time.Now()
			if err := fill(ctx, l.store(large.rdb, fillPrefix), known, size); err != nil {
				return nil, err
			}
			g.FilledIn, known = time.Since(begun).Seconds(), size
			used, err := usedMemory(ctx, large.rdb)
			if err != nil {
				return nil, err
			}
			g.Memory, g.PerKey = used-empty, float64(used-empty)/float64(size)
			large.keep = size > cheapToScan
			if err := g.compare(ctx, s, l, large, small, p); err != nil {
				return nil, err
			}
			all = append(all, g)
		}
	}
	return all, nil
}

// cheapToScan is up to how many keys those of a trial are removed; among more of them the few that a trial adds do not count.
const cheapToScan = 1_000_000

// growthWorkers is how many workers take the messages: as many as --workers says last.
func growthWorkers(s settings) int { return s.workers[len(s.workers)-1] }

func (g *grown) compare(ctx context.Context, s settings, l redisLayout, large, small *bench, p *progress) error {
	m := mode{name: l.name, group: groupOurs, run: runWorker(l.store, nil)}
	rates, cpu := map[*bench][]float64{}, map[*bench][]float64{}
	var ratios []float64
	for round := range s.rounds {
		p.step("%s, %s keys, round %d of %d", l.name, count(float64(g.Keys)), round+1, s.rounds)
		order := []*bench{large, small}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, b := range order {
			var got measured
			if err := b.throughput(ctx, m, growthWorkers(s), &got); err != nil {
				return err
			}
			rates[b], cpu[b] = append(rates[b], got.rate), append(cpu[b], got.cpu.redis)
		}
		ratios = append(ratios, rates[large][round]/rates[small][round])
	}
	g.Rate, g.Beside, g.Ratio = spreadOf(rates[large]), spreadOf(rates[small]), spreadOf(ratios)
	g.CPU, g.CPUOfFew = spreadOf(cpu[large]).Median, spreadOf(cpu[small]).Median
	return nil
}

// growthSizes are the powers of ten from the smallest up to most, and most itself.
func growthSizes(most int) []int {
	var sizes []int
	for n := smallestGrowth; n < most; n *= 10 {
		sizes = append(sizes, n)
	}
	return append(sizes, most)
}

// fillPrefix is the prefix of the keys that stay: the store's own default, since a longer one would count as memory.
const fillPrefix = ""

func (t *table) growth(all []grown) {
	t.linef("\nThe worker on a Redis that remembers so many keys, and on one that remembers %s (“beside”), in turns", count(smallestGrowth))
	var rows []row
	for _, g := range all {
		rows = append(rows, row{cells: []string{
			g.Layout, count(float64(g.Keys)), count(g.Rate.Median), count(g.Rate.Min) + "–" + count(g.Rate.Max), count(g.Beside.Median),
			fmt.Sprintf("%.2f", g.Ratio.Median), fmt.Sprintf("%.2f–%.2f", g.Ratio.Min, g.Ratio.Max), micros(g.CPU), micros(g.CPUOfFew),
			fmt.Sprintf("%.1f", float64(g.Memory)/(1<<20)), fmt.Sprintf("%.0f", g.PerKey),
		}})
	}
	t.grid([]string{"layout", "keys", "msg/s", "min–max", "msg/s beside", "ratio", "min–max", "Redis CPU µs", "beside", "MiB", "bytes a key"}, rows)
}
