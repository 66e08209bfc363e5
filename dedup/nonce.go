package dedup

import (
	"crypto/rand"
	"sync"
	"sync/atomic"
	"time"
)

// A nonce has to differ from every other one that is ever used for its key, since whoever claims with the nonce of a running
// claim is given that claim (I8), and a change is refused only if fence or nonce differ. It is made of
//
//   - 80 random bits of the process: no two processes have the same, and nobody who has not seen a nonce of this process can
//     guess one. Whoever can see one, in the store, could change the record itself.
//   - 50 bits of a number that grows with every call and is not behind the clock in microseconds. Within the process it never
//     comes again, and a copy of the process that was made with its memory (a virtual machine restored twice from one
//     snapshot) has the same random bits, but claims at another microsecond.
//
// That is as safe as random text for each call, and costs no call of the system.
type nonces struct {
	prefix func() string
	last   atomic.Int64
}

const (
	nonceAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	prefixLength  = 16 // characters of five bits
	numberLength  = 10
	letterBits    = 5
)

var processNonces = nonces{prefix: sync.OnceValue(func() string { return rand.Text()[:prefixLength] })}

// next returns a nonce that was not there before.
func (n *nonces) next(now time.Time) Nonce {
	number := now.UnixMicro()
	for {
		last := n.last.Load()
		number = max(number, last+1)
		if n.last.CompareAndSwap(last, number) {
			break
		}
	}
	var b [prefixLength + numberLength]byte
	copy(b[:], n.prefix())
	for i := len(b) - 1; i >= prefixLength; i-- {
		b[i] = nonceAlphabet[number&(1<<letterBits-1)]
		number >>= letterBits
	}
	return Nonce(b[:])
}
