package memstore

// Traces is how many digests a store holds, expired ones that are not swept yet included.
func (s *Store) Traces() (n int) {
	for i := range s.shard {
		sh := &s.shard[i]
		sh.mu.Lock()
		n += len(sh.traces)
		sh.mu.Unlock()
	}
	return n
}
