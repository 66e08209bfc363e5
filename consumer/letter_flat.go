package consumer

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// letterMore begins the names of headers that each hold one more value of another, as "name=value", counted from 1.
const letterMore = LetterPrefix + "More-"

// EncodeFlat is [Letter.EncodeHeader] for transports that keep one value for each name. [DecodeLetter] reads it, too.
func (l *Letter) EncodeFlat() map[string]string {
	h := l.EncodeHeader()
	flat := make(map[string]string, len(h))
	more := 0
	for _, name := range slices.Sorted(maps.Keys(h)) {
		flat[name] = h[name][0]
		for _, value := range h[name][1:] {
			more++
			flat[letterMore+strconv.Itoa(more)] = name + "=" + value
		}
	}
	return flat
}

// unflatten gives further values back to their headers. Headers without such are returned as they are.
func unflatten(header map[string][]string) map[string][]string {
	if len(header[letterMore+"1"]) == 0 {
		return header
	}
	h := maps.Clone(header)
	for n := 1; ; n++ {
		values := h[letterMore+strconv.Itoa(n)]
		if len(values) == 0 {
			return h
		}
		for _, line := range values {
			if name, value, ok := strings.Cut(line, "="); ok {
				h[name] = append(slices.Clip(h[name]), value)
			}
		}
	}
}
