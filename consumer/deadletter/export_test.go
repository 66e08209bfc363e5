package deadletter

import "context"

// MarkEntry marks an entry as a replay does.
func MarkEntry(ctx context.Context, q *Queue, e *Entry, m Mark) error { return q.mark(ctx, e, m) }

// AfterStep has f called between the steps of a replay, for a process of its own.
func AfterStep(f func(step string)) { afterStep = f }

// DerivedKey is the key that NewKey gives.
var DerivedKey = derivedKey
