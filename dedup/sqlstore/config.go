package sqlstore

import (
	"fmt"

	"github.com/idemq/idemq/dedup"
)

// DefaultSweepAfter is how many granted claims come between two sweeps if [Config] does not say.
const DefaultSweepAfter = 100

// Config has the settings of a [Store]. Its zero value works.
type Config struct {
	// SweepAfter is the number of fresh claims of this process after which the next one also removes up to four times as
	// many expired records, so that the table stays bounded without anybody's doing. Defaults to 100; negative means
	// never, for programs that call [Store.Sweep] themselves.
	SweepAfter int
	// Description is what [Store.Describe] answers: the database's address without credentials. Defaults to what the
	// database says of itself.
	Description string
}

func (c Config) withDefaults(d Dialect) (Config, error) {
	if dialects[d] == nil {
		return c, fmt.Errorf("sqlstore: %w: the dialect is %d; use sqlstore.Postgres or sqlstore.SQLite", dedup.ErrConfig, d)
	}
	if c.SweepAfter == 0 {
		c.SweepAfter = DefaultSweepAfter
	}
	return c, nil
}
