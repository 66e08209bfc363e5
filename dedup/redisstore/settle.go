package redisstore

import (
	"context"
	"slices"
	"strconv"

	"github.com/idemq/idemq/dedup"
)

// SettleMany settles the claims in one round trip (on a Cluster, one for each server). Results that are together larger than
// 1 MiB make it several, so that memory stays bounded.
func (s *Store) SettleMany(ctx context.Context, settlements []dedup.HeldSettlement) []error {
	out := make([]error, len(settlements))
	valid := make([]*dedup.HeldSettlement, 0, len(settlements))
	places := make([]int, 0, len(settlements))
	for i := range settlements {
		if err := invalidClass(settlements[i].Settlement.Cause.Class); err != nil {
			out[i] = s.failure(ctx, "settle", settlements[i].Hold.Key, err)
			continue
		}
		valid, places = append(valid, &settlements[i]), append(places, i)
	}
	for len(valid) > 0 {
		n, bytes := 1, settleBytes(valid[0])
		for ; n < len(valid); n++ {
			if bytes += settleBytes(valid[n]); bytes > maxBytes {
				break
			}
		}
		s.settleSome(ctx, valid[:n], func(i int, err error) { out[places[i]] = err })
		valid, places = valid[n:], places[n:]
	}
	return out
}

// settleSome settles the claims in one round trip, and answers each.
func (s *Store) settleSome(ctx context.Context, settlements []*dedup.HeldSettlement, answer func(i int, err error)) {
	var calls []call
	var of [][]int // which settlements each call is for
	var rest []int
	for i, st := range settlements {
		if c, ok := s.compareCall(st); ok {
			calls, of = append(calls, c), append(of, []int{i})
		} else {
			rest = append(rest, i)
		}
	}
	for _, span := range s.chunks(len(rest)) {
		some := make([]*dedup.HeldSettlement, 0, span[1]-span[0])
		for _, i := range rest[span[0]:span[1]] {
			some = append(some, settlements[i])
		}
		calls, of = append(calls, s.settleCall(some)), append(of, rest[span[0]:span[1]])
	}
	for c, rep := range s.runCalls(ctx, calls) {
		for n, i := range of[c] {
			answer(i, s.settled(ctx, settlements[i].Hold.Key, rep, n))
		}
	}
}

// settleBytes is about what a settlement adds to a request.
func settleBytes(st *dedup.HeldSettlement) int {
	return len(st.Settlement.Result) + len(st.Settlement.Cause.Message)
}

// settleCall is one run of settle.lua. Claims of which the records are known go the short way if they are consumed, and have
// the same settings as the first such.
func (s *Store) settleCall(settlements []*dedup.HeldSettlement) call {
	out := call{script: settleScript, keys: make([]string, 0, len(settlements))}
	results := slices.ContainsFunc(settlements, func(st *dedup.HeldSettlement) bool { return len(st.Settlement.Result) > 0 })
	out.args = make([]any, settleHead, settleHead+2*len(settlements))
	var common *newClaim
	var retention int64
	text := make([]byte, 0, settleSize*len(settlements))
	for _, st := range settlements {
		h, st := &st.Hold, &st.Settlement
		out.keys = append(out.keys, s.name(h.Key))
		from := len(text)
		c, short := s.granted.take(h)
		// A time to live of 0 would be an error.
		if short = short && st.State == dedup.Consumed && st.Retention > 0; short && common == nil {
			common, retention = &c, millis(st.Retention)
		}
		if short && c.lease == common.lease && c.retention == common.retention && millis(st.Retention) == retention {
			text = c.appendText(text, h.Nonce)
		} else {
			text = appendSettlement(text, h, st)
		}
		if out.args = append(out.args, text[from:len(text):len(text)]); results {
			out.args = append(out.args, result(st))
		}
	}
	if common == nil {
		common = &newClaim{}
	}
	out.args[0], out.args[1], out.args[2], out.args[3] = common.lease, common.retention, retention, flag(results)
	return out
}

const (
	settleHead = 4                                    // arguments that all settlements of a call share
	settleSize = claimSize + len("9007199254740991 ") // about what one takes in the request, in bytes
)

// appendSettlement appends the long form. A nonce that no claim can have is nobody's, like the dash that stands for it.
func appendSettlement(b []byte, h *dedup.Hold, st *dedup.Settlement) []byte {
	b = strconv.AppendUint(append(b, '-'), uint64(h.Fence), 10)
	nonce := string(h.Nonce)
	if !word(nonce) {
		nonce = ""
	}
	for _, s := range []string{nonce, endLetter(st.State), string(st.Cause.Class)} {
		if b = append(b, ' '); s == "" {
			s = "-"
		}
		b = append(b, s...)
	}
	b = strconv.AppendInt(append(b, ' '), millis(st.Retention), 10)
	return append(append(b, ' '), st.Cause.Message...)
}

// endLetter stands for a state that ends a claim; the script refuses any other.
func endLetter(st dedup.State) string {
	switch st {
	case dedup.Consumed:
		return "c"
	case dedup.DeadOwed:
		return "o"
	case dedup.DeadSent:
		return "d"
	default:
		return "-"
	}
}

// result is an argument of the script. Most handlers have none, and a constant costs no allocation.
func result(st *dedup.Settlement) any {
	if len(st.Result) == 0 {
		return ""
	}
	return st.Result
}

// settled reads answer i of a reply of settle.lua.
func (s *Store) settled(ctx context.Context, k dedup.Key, rep reply, i int) error {
	if list, ok := rep.value.([]any); ok && i < len(list) {
		rep.value = list[i]
	}
	return s.outcome(ctx, "settle", k, rep)
}
