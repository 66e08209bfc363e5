package main

import (
	"context"
	"unicode/utf8"

	"github.com/idemq/idemq/dedup"
)

// maxShownResult is how much of a step's result "key show" prints, in bytes.
const maxShownResult = 2 << 10

// keyWhole is a record with the steps of its handler.
type keyWhole struct {
	keyRecord

	Steps []keyStep `json:"steps,omitempty"`
}

// keyStep is a finished step.
type keyStep struct {
	Name  string   `json:"name"`
	After []string `json:"after,omitempty"`
	Codec string   `json:"codec,omitempty"`
	Bytes int      `json:"bytes"`
	// Result is the beginning of what the step returned, if it is text.
	Result  string `json:"result,omitempty"`
	Refused string `json:"refused,omitempty"`
	Error   string `json:"error,omitempty"`
}

// wholeOf adds what the store keeps of a key's steps to its record.
func wholeOf(ctx context.Context, s dedup.Inspector, r *dedup.Record) (keyWhole, error) {
	w := keyWhole{keyRecord: recordOf(r)}
	keeper, ok := s.(dedup.StepStore)
	if !ok {
		return w, nil
	}
	steps, err := keeper.Steps(ctx, r.Key)
	if err != nil {
		return w, err
	}
	for _, st := range steps {
		info, err := st.Info()
		one := keyStep{Name: st.Name, After: info.After, Codec: info.Codec, Bytes: len(info.Result), Refused: info.Refused}
		if err != nil {
			one.Error = err.Error()
		}
		if utf8.Valid(info.Result) {
			one.Result = string(info.Result[:min(len(info.Result), maxShownResult)])
		}
		w.Steps = append(w.Steps, one)
	}
	return w, nil
}
