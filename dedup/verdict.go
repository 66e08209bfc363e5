package dedup

// Verdict is a store's answer to an Acquire. A duplicate is a verdict, not an error.
type Verdict uint8

// The verdicts.
const (
	// Granted: the caller holds the lease and must run the handler.
	Granted Verdict = iota + 1
	// Busy: somebody else holds the lease, or the next try is not due yet. Record.Wait says for how long.
	Busy
	// Duplicate: the key was consumed. Record.Result holds what the handler left.
	Duplicate
	// Dead: the key will not be tried again unless somebody replays its dead letter.
	Dead
	// LetterOwed: the key is dead and its letter is not confirmed. Whoever gets this publishes the letter for
	// Record.Fence and then calls LetterSent. The handler is not run.
	LetterOwed
	// Conflict: the key is known with another payload. It comes before every other verdict.
	Conflict
)

var verdictNames = [...]string{"none", "granted", "busy", "duplicate", "dead", "letter-owed", "conflict"}

// String returns the verdict's name for logs and metrics.
func (v Verdict) String() string {
	if int(v) < len(verdictNames) {
		return verdictNames[v]
	}
	return "unknown"
}
