package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
)

// describe asks the database where it is.
func (d *dialect) describe(ctx context.Context, q querier) (string, error) {
	text := "SELECT coalesce(host(inet_server_addr()), ''), coalesce(inet_server_port()::text, ''), current_database()::text"
	if d.name == SQLite {
		text = "SELECT '', '', file FROM pragma_database_list WHERE name = 'main'"
	}
	rows, err := q.QueryContext(ctx, text)
	if err != nil {
		return "", fmt.Errorf("sqlstore: ask the database for its address: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var host, port, name sql.NullString
	if rows.Next() {
		err = rows.Scan(&host, &port, &name)
	}
	if err = errors.Join(err, rows.Close(), rows.Err()); err != nil {
		return "", fmt.Errorf("sqlstore: ask the database for its address: %w", err)
	}
	u := url.URL{Scheme: "postgres", Host: host.String, Path: "/" + name.String}
	switch {
	case d.name == SQLite:
		u = url.URL{Scheme: "sqlite", Path: filepath.ToSlash(name.String)}
	case host.String == "": // a socket of this machine
		u.Host = "localhost"
	default:
		u.Host = net.JoinHostPort(host.String, port.String)
	}
	return u.String(), nil
}
