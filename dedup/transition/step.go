package transition

import "github.com/idemq/idemq/dedup"

// SaveStep says whether h may save a step: under the same proof, and in the same state, as Settle.
func SaveStep(r *dedup.Record, h dedup.Hold) error {
	if !owns(r, h) || r.State != dedup.Acquired {
		return dedup.ErrLeaseLost
	}
	return nil
}

// KeepStep puts s in the place of the step with its name, or behind the others. What steps holds is not changed.
func KeepStep(steps []dedup.SavedStep, s dedup.SavedStep) []dedup.SavedStep {
	out := make([]dedup.SavedStep, 0, len(steps)+1)
	known := false
	for _, o := range steps {
		if o.Name == s.Name {
			o, known = s, true
		}
		out = append(out, o)
	}
	if !known {
		out = append(out, s)
	}
	return out
}
