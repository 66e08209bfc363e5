package consumer

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/idemq/idemq/dedup"
)

// What a letter keeps of earlier deaths: how many of them, the latest, and how much of each error, in bytes before
// encoding.
const (
	MaxLetterHistory    = 20
	MaxLetterDeathError = 256
)

// Death is an earlier death of a letter's message, before it was replayed. Its texts are untrusted.
type Death struct {
	Generation int
	Class      dedup.Class
	Error      string // cut to [MaxLetterDeathError] bytes
	Time       time.Time
	ID         string // of the letter that told of it
}

// Deaths returns the history with the death that this letter tells of at its end, as a replay takes it along. At most
// [MaxLetterHistory] are left, the latest. It shares no slice with l.
func (l *Letter) Deaths() []Death {
	own := Death{
		Generation: l.Generation, Class: l.Class, Error: letterCut(l.Error, MaxLetterDeathError), Time: l.LastFailure, ID: l.ID(),
	}
	return slices.Clone(latest(append(slices.Clone(l.History), own)))
}

func latest(deaths []Death) []Death { return deaths[max(0, len(deaths)-MaxLetterHistory):] }

// deathFields are separated by semicolons: generation;class;time;id;error.
const deathFields = 5

func encodeHistory(deaths []Death) []string {
	var lines []string
	for _, d := range latest(deaths) {
		fields := [deathFields]string{
			strconv.Itoa(max(0, d.Generation)), string(d.Class), letterFormatTime(d.Time), d.ID, letterCut(d.Error, MaxLetterDeathError),
		}
		for i, f := range fields {
			fields[i] = letterEscape(f, ";")
		}
		lines = append(lines, strings.Join(fields[:], ";"))
	}
	return lines
}

func (r *letterReader) history(name string) []Death {
	var deaths []Death
	for _, line := range r.header[name] {
		fields := strings.Split(line, ";")
		if len(fields) != deathFields {
			r.fail(name, "is not generation;class;time;id;error")
			return nil
		}
		for i, f := range fields {
			text, err := url.PathUnescape(f)
			if err != nil {
				r.fail(name, "is not percent-encoded")
				return nil
			}
			fields[i] = text
		}
		generation, err := strconv.ParseUint(fields[0], 10, 31)
		if err != nil {
			r.fail(name, "has a generation that is not a number in range")
			return nil
		}
		deaths = append(deaths, Death{
			Generation: int(generation), Class: dedup.Class(fields[1]), Time: r.parseTime(name, fields[2]), ID: fields[3],
			Error: letterCut(fields[4], MaxLetterDeathError),
		})
	}
	return latest(deaths)
}
