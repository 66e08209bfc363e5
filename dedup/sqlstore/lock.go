package sqlstore

import (
	"context"
	"database/sql/driver"
	"errors"
)

// locked runs f on a store whose statements are one transaction with SQLite's write lock from its beginning. A statement
// reads the clock and then waits for the lock; a record that it makes where another was granted and forgotten meanwhile
// would bear an older fence. Under the lock it reads the clock after every change that was made before. Postgres reads the
// clock within the statement, and does not wait before it finds a record.
func (s *Store) locked(ctx context.Context, f func(*Store) error) error {
	if s.pool == nil || s.dialect.name != SQLite {
		return f(s)
	}
	return s.again(ctx, func() (err error) {
		conn, err := s.pool.Conn(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
			return err
		}
		err = f(&Store{db: conn, dialect: s.dialect, st: s.st, sweepAfter: -1})
		end := "COMMIT"
		if err != nil {
			end = "ROLLBACK"
		}
		clean, cancel := limit(context.WithoutCancel(ctx))
		defer cancel()
		if _, endErr := conn.ExecContext(clean, end); endErr != nil {
			// The connection must not go back to the pool with the lock.
			_ = conn.Raw(func(any) error { return driver.ErrBadConn })
			err = errors.Join(err, endErr)
		}
		return err
	})
}
