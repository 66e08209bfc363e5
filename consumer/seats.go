package consumer

import "time"

// Seats are room in a flow that was asked for.
type Seats struct {
	f       *Flow
	most    int
	patient bool
	n       int
	granted chan struct{}
}

const patientParts = 4 // a patient one waits for this part of the window

// Ask asks for up to so many seats: as many messages may then be pulled. Whoever asked first is served first. A patient
// question waits for a good part of the window to be free, so that seats come in batches: for who has pulled already and
// only wants to be in time with the next. The caller takes each seat with [Flow.Offer], or gives it back.
func (f *Flow) Ask(most int, patient bool) *Seats {
	s := &Seats{f: f, most: max(1, most), patient: patient, granted: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asks = append(f.asks, s)
	f.seat()
	return s
}

// Granted is closed when the seats are there.
func (s *Seats) Granted() <-chan struct{} { return s.granted }

// Take returns how many seats there are, and withdraws the question if there are none yet.
func (s *Seats) Take() int {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	for i, a := range s.f.asks {
		if a == s {
			s.f.asks = append(s.f.asks[:i], s.f.asks[i+1:]...)
			break
		}
	}
	n := s.n
	s.n = 0
	return n
}

// GiveBack returns seats that no message came for.
func (f *Flow) GiveBack(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reserved -= n
	f.seat()
}

// Window returns how many deliveries the flow takes at present in all.
func (f *Flow) Window() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.workers + f.ahead()
}

// ahead is how many claims the workers may be ahead of. Until their speed is known, and where they claim by themselves,
// none. The caller holds mu.
func (f *Flow) ahead() int {
	if f.cycle == 0 || f.process != nil {
		return 0
	}
	n := int64(f.workers) * int64(min(aheadTime, f.maxWait/2)) / int64(f.cycle)
	if f.size > 0 {
		n = min(n, int64(aheadBytes/f.size))
	}
	return int(min(n, int64(f.p.cfg.MaxAhead)))
}

const averageOver = 16 // how many of the latest make an average

// average moves an average a little to the latest value.
func average[T int | time.Duration](avg, latest T) T {
	if avg == 0 {
		return max(1, latest)
	}
	return max(1, avg+(latest-avg)/averageOver)
}

// seat gives free seats to those who have asked. The caller holds mu.
func (f *Flow) seat() {
	for len(f.asks) > 0 {
		s := f.asks[0]
		window, least := f.workers+f.ahead(), 1
		if s.patient {
			least = max(1, window/patientParts)
		}
		free := window - f.held - f.reserved
		if free < least || f.stopping {
			return
		}
		s.n = min(free, s.most)
		f.reserved += s.n
		close(s.granted)
		f.asks = f.asks[1:]
	}
}
