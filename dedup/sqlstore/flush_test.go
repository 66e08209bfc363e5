package sqlstore

import (
	"bufio"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/internal/testserver"
)

// FLUSHALL while one process stands between an effect and its record, and after others were done; then another process gets
// all of their keys again. With the database behind Redis nothing repeats. Redis alone repeats every effect.
func TestFlushAllBetweenProcesses(t *testing.T) {
	t.Parallel()
	const done = 5
	for way, want := range map[string]map[int]int{"tiered-control": {1: done + 1}, "redis-control": {2: done + 1}} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			server := testserver.PrivateRedis(t)
			w := newCrashWorld(t, SQLite, way)
			w.redisURL = server.URL()
			first, all := w.job, w.job
			first.last, all.last = done, done+1
			require.False(t, w.run(t, first, 0))

			atWork := w.job
			atWork.first, atWork.last, atWork.die = done, done+1, committed
			cmd := atWork.command(t)
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			in, err := cmd.StdinPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			said := bufio.NewScanner(out)
			for said.Scan() && said.Text() != committed {
			}
			require.NoError(t, server.Client(t).FlushAll(t.Context()).Err())
			require.False(t, w.run(t, all, 0))
			_, err = fmt.Fprintln(in, "on")
			require.NoError(t, err)
			for said.Scan() {
			}
			if err := cmd.Wait(); !ways[way].alone {
				require.NoError(t, err, "who was at work puts its claim back, and settles")
			}
			require.False(t, w.run(t, all, 0))
			assert.Equal(t, want, w.counts(t))
		})
	}
}
