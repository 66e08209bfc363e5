package dedup

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
)

// StepCodec turns results of steps into bytes and back. It must be safe for concurrent use.
type StepCodec interface {
	// Name is kept with every result, so that another codec does not try its luck with it.
	Name() string
	// Marshal returns the bytes of v.
	Marshal(v any) ([]byte, error)
	// Unmarshal reads them into the value that v points to.
	Unmarshal(data []byte, v any) error
}

// jsonSteps is the default codec. It refuses fields that the type does not have: a field that was renamed would
// otherwise be empty without a word.
type jsonSteps struct{}

func (jsonSteps) Name() string { return "json" }

func (jsonSteps) Marshal(v any) ([]byte, error) { return json.Marshal(v) }

func (jsonSteps) Unmarshal(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is something behind the value")
	}
	return nil
}

// stepVersion is the version of the form in which the core keeps a step: a line of JSON, a newline, the result.
const stepVersion = 1

// keptStep is what the core keeps of a step.
type keptStep struct {
	Version int    `json:"v"`
	Codec   string `json:"codec"`
	// After are the steps that were finished when this one began.
	After []string `json:"after,omitempty"`
	// Beside are the other steps that had begun when this one was done.
	Beside []string `json:"beside,omitempty"`
	// Refused says why there is no result although the step is done.
	Refused string `json:"refused,omitempty"`

	result []byte
	size   int // of the encoded form, where it was read or saved
}

// knew says whether the step with this name had begun when k was done.
func (k *keptStep) knew(name string) bool {
	return slices.Contains(k.After, name) || slices.Contains(k.Beside, name)
}

func (k *keptStep) encode() []byte {
	k.Version = stepVersion
	line, err := json.Marshal(k)
	if err != nil {
		panic(err) // strings and a number: it cannot fail
	}
	return append(append(line, '\n'), k.result...)
}

func decodeStep(data []byte) (*keptStep, error) {
	line, result, ok := bytes.Cut(data, []byte{'\n'})
	k := &keptStep{}
	if err := json.Unmarshal(line, k); !ok || err != nil {
		return nil, errors.New("its bytes are not those of a step; forget the key, or use the build that wrote them")
	}
	if k.Version != stepVersion {
		return nil, fmt.Errorf("it has format version %d, this build knows %d; use the newer build", k.Version, stepVersion)
	}
	k.result, k.size = bytes.Clone(result), len(data)
	return k, nil
}

// StepInfo tells a person about a saved step.
type StepInfo struct {
	// Codec is the name of the codec of Result.
	Codec string
	// After are the steps that were finished when it began.
	After []string
	// Result is what the step returned, as the codec wrote it.
	Result []byte
	// Refused says why there is no result although the step is done; empty if there is one.
	Refused string
}

// Info reads what [Step] has saved. The error wraps [ErrStepResult].
func (s SavedStep) Info() (StepInfo, error) {
	k, err := decodeStep(s.Data)
	if err != nil {
		return StepInfo{}, fmt.Errorf("%w: step %s: %w", ErrStepResult, printable(s.Name), err)
	}
	return StepInfo{Codec: k.Codec, After: k.After, Result: k.result, Refused: k.Refused}, nil
}

// EncodeSteps returns a stored form of steps for stores that keep them in one value: for each step a line of the two
// lengths, the name and the data.
func EncodeSteps(steps []SavedStep) []byte {
	var b []byte
	for _, s := range steps {
		b = strconv.AppendInt(b, int64(len(s.Name)), 10)
		b = append(b, ' ')
		b = strconv.AppendInt(b, int64(len(s.Data)), 10)
		b = append(b, '\n')
		b = append(append(b, s.Name...), s.Data...)
	}
	return b
}

// DecodeSteps reads what [EncodeSteps] wrote. Anything else is an error that wraps [ErrUnreadable]. The steps share no
// memory with b.
func DecodeSteps(k Key, b []byte) ([]SavedStep, error) {
	var out []SavedStep
	for len(b) > 0 {
		line, rest, ok := bytes.Cut(b, []byte{'\n'})
		name, data, two := bytes.Cut(line, []byte{' '})
		p := parser{}
		n, m := p.count(name), p.count(data)
		if !ok || !two || p.bad || n > len(rest) || m > len(rest)-n {
			return nil, UnreadableError(k, "its steps are malformed")
		}
		out = append(out, SavedStep{Name: string(rest[:n]), Data: bytes.Clone(rest[n : n+m])})
		b = rest[n+m:]
	}
	return out, nil
}
