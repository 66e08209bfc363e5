package dedup

import "context"

type contextKey struct{}

type claimInfo struct {
	key       Key
	fence     Fence
	attempt   int
	untracked bool
	guard     *Guard // nil if it runs untracked
}

func infoFrom(ctx context.Context) claimInfo {
	switch c := ctx.Value(contextKey{}).(type) {
	case *Guard:
		return claimInfo{key: c.record.Key, fence: c.record.Fence, attempt: c.record.Attempt, guard: c}
	case *claimInfo:
		return *c
	default:
		return claimInfo{}
	}
}

// KeyFrom returns the key under which the handler with this context runs, or the zero Key. Pass its ID on to whatever
// the handler calls, so that the far side can deduplicate too.
func KeyFrom(ctx context.Context) Key { return infoFrom(ctx).key }

// FenceFrom returns the fence of the claim under which the handler runs, 0 if it runs untracked. A sink that refuses
// smaller fences than it has seen is safe from stale owners; that orders writers and does not count effects.
func FenceFrom(ctx context.Context) Fence { return infoFrom(ctx).fence }

// AttemptFrom returns the number of this try, counted from 1; 0 if the handler runs untracked.
func AttemptFrom(ctx context.Context) int { return infoFrom(ctx).attempt }

// Untracked says whether the handler runs although the store could not be asked (policy "open"): this run is in no
// record, and its effect may come twice.
func Untracked(ctx context.Context) bool { return infoFrom(ctx).untracked }

// WithUntracked marks a context for such a run.
func WithUntracked(ctx context.Context, k Key) context.Context {
	return context.WithValue(ctx, contextKey{}, &claimInfo{key: k, untracked: true})
}
