package main

import (
	"context"
	"errors"
	"maps"
	"slices"
)

// compare takes all modes through all rounds, in turns.
func compare(ctx context.Context, s settings, srv *servers, p *progress) (_ []result, err error) {
	b, err := newBench(ctx, s, srv)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.close(ctx)) }()
	modes := s.selected()
	all := map[int]map[string][]measured{} // by workers and mode, one for each round
	p.begin(s.rounds * len(s.workers) * len(modes))
	for round := range s.rounds {
		for _, workers := range s.workers {
			if all[workers] == nil {
				all[workers] = map[string][]measured{}
			}
			for i := range modes {
				m := modes[(i+round)%len(modes)] // none has always the same one before it
				p.step("round %d of %d, %d workers, %s", round+1, s.rounds, workers, m.name)
				var got measured
				if err := b.throughput(ctx, m, workers, &got); err != nil {
					return nil, err
				}
				if s.latencyRate > 0 {
					if err := b.latency(ctx, m, workers, &got); err != nil {
						return nil, err
					}
				}
				all[workers][m.name] = append(all[workers][m.name], got)
			}
		}
	}
	var out []result
	for _, workers := range s.workers {
		for _, m := range modes {
			out = append(out, summarize(m, workers, s.messagesFor(workers), all[workers]))
		}
	}
	return out, nil
}

// spread is a median with what lies around it.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func spreadOf(values []float64) spread {
	v := slices.Sorted(slices.Values(values))
	if len(v) == 0 {
		return spread{}
	}
	return spread{Median: (v[len(v)/2] + v[(len(v)-1)/2]) / 2, Min: v[0], Max: v[len(v)-1]}
}

// summarize makes one line of the result.
func summarize(m mode, workers, messages int, rounds map[string][]measured) result {
	mine := rounds[m.name]
	of := func(value func(measured) float64) spread {
		values := make([]float64, len(mine))
		for i, r := range mine {
			values[i] = value(r)
		}
		return spreadOf(values)
	}
	against := func(other string) *spread {
		theirs := rounds[other]
		if len(theirs) == 0 {
			return nil
		}
		values := make([]float64, len(mine))
		for i := range mine {
			values[i] = mine[i].rate / theirs[i].rate
		}
		s := spreadOf(values)
		return &s
	}
	r := result{
		Workers: workers, Mode: m.name, About: m.about, Group: string(m.group), Messages: messages, Handled: mine[0].handled,
		Rate: of(func(m measured) float64 { return m.rate }), OfRaw: against(rawMode), OfNaive: against(naiveMode),
		Allocs:        of(func(m measured) float64 { return m.allocs }).Median,
		Bytes:         of(func(m measured) float64 { return m.bytes }).Median,
		RedisCommands: of(func(m measured) float64 { return m.allCommands }).Median,
		HitRate:       of(func(m measured) float64 { return m.hitRate }).Median,
		CPU: cpuMicros{
			Client: of(func(m measured) float64 { return m.cpu.client }).Median,
			Redis:  of(func(m measured) float64 { return m.cpu.redis }).Median,
			NATS:   of(func(m measured) float64 { return m.cpu.nats }).Median,
		},
		Commands: map[string]float64{},
	}
	for _, round := range mine {
		for name := range round.commands {
			r.Commands[name] = of(func(m measured) float64 { return m.commands[name] }).Median
		}
	}
	maps.DeleteFunc(r.Commands, func(_ string, n float64) bool { return n == 0 })
	if mine[0].latency {
		r.Latency = latencyOf(mine, rounds[rawMode])
	}
	return r
}

// latencyOf compares each round with raw in the same round, if that was measured.
func latencyOf(mine, raw []measured) *latencies {
	l := latencies{KeptUp: true}
	var p50, p99, added50, added99 []float64
	for i, m := range mine {
		l.KeptUp = l.KeptUp && m.keptUp
		p50, p99 = append(p50, m.p50), append(p99, m.p99)
		if len(raw) > 0 {
			added50, added99 = append(added50, m.p50-raw[i].p50), append(added99, m.p99-raw[i].p99)
		}
	}
	l.P50, l.P99 = spreadOf(p50), spreadOf(p99)
	if len(raw) > 0 {
		a50, a99 := spreadOf(added50), spreadOf(added99)
		l.Added50, l.Added99 = &a50, &a99
	}
	return &l
}
