package redisstore

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// errAddress says what an address looks like. No error repeats the address itself: it may hold a password.
var errAddress = errors.New("redisstore: malformed URL; it must look like redis://host:6379/0, " +
	"rediss://user:password@host:6379/0 (with TLS), redis+sentinel://host:26379,host2:26379/mymaster/0, " +
	"redis+cluster://host:6379,host2:6379 or unix:///run/redis.sock?db=0")

// errEncode: a password with such a character would be read as a host, a path or a parameter.
var errEncode = errors.New("redisstore: malformed URL; " +
	"@ : / ? # and % in a user, password, path or parameter must be percent-encoded")

var (
	errOneServer = errors.New("redisstore: redis:// is for one server; " +
		"several are a Sentinel group (redis+sentinel://) or a Cluster (redis+cluster://)")
	errNoGroup   = errors.New("redisstore: a Sentinel group needs the name of its master and the address of a sentinel")
	errNotMaster = errors.New("redisstore: records must be read from the master; " +
		"unset ReplicaOnly, RouteByLatency and RouteRandomly")
)

// Ports that an address may leave out.
const (
	serverPort   = "6379"
	sentinelPort = "26379"
)

// Kinds of addresses, which are their schemes without TLS.
const (
	kindServer   = "redis"
	kindUnix     = "unix"
	kindSentinel = "redis+sentinel"
	kindCluster  = "redis+cluster"
)

var kinds = map[string]struct {
	kind string
	tls  bool
	port string
}{
	"redis": {kindServer, false, serverPort}, "rediss": {kindServer, true, serverPort}, "unix": {kindUnix, false, ""},
	"redis+sentinel": {kindSentinel, false, sentinelPort}, "rediss+sentinel": {kindSentinel, true, sentinelPort},
	"redis+cluster": {kindCluster, false, serverPort}, "rediss+cluster": {kindCluster, true, serverPort},
}

// unwanted are options of go-redis that would send calls to a replica, which knows less than the master, or that say what
// an address says elsewhere.
var unwanted = []string{
	"context_timeout_enabled", "master_name", "password", "read_only", "replica_only", "route_by_latency",
	"route_by_latency_tolerance", "route_randomly", "use_disconnected_replicas", "username",
}

// Open returns a store for an address and a function that closes its connections. No command is sent. Calls keep to the
// deadlines of their contexts. Errors never repeat the address, which may hold a password. The package comment lists the
// forms of addresses and their parameters.
func Open(address string, cfg Config) (*Store, func() error, error) {
	a, err := parseAddress(address)
	if err != nil {
		return nil, nil, err
	}
	if prefix := a.take("prefix"); prefix != "" {
		if cfg.Prefix != "" && cfg.Prefix != prefix {
			return nil, nil, fmt.Errorf("redisstore: the URL says prefix %q and Config.Prefix says %q; leave one out", prefix, cfg.Prefix)
		}
		cfg.Prefix = prefix
	}
	switch a.kind {
	case kindSentinel:
		return a.openSentinel(cfg)
	case kindCluster:
		return a.openCluster(cfg)
	default:
		return a.openServer(cfg)
	}
}

// OpenSentinel returns a store that follows the master of a Sentinel group, and a function that closes its connections. It
// is what [Open] does for redis+sentinel://, for settings that no URL has. Unlike [New] over redis.NewFailoverClient, the
// store can say where it is. The options are copied; ContextTimeoutEnabled is set.
func OpenSentinel(opt *redis.FailoverOptions, cfg Config) (*Store, func() error, error) {
	switch {
	case opt == nil || opt.MasterName == "" || len(opt.SentinelAddrs) == 0:
		return nil, nil, errNoGroup
	case opt.ReplicaOnly || opt.RouteByLatency || opt.RouteRandomly:
		return nil, nil, errNotMaster
	}
	own := *opt
	own.ContextTimeoutEnabled = true
	rdb := redis.NewFailoverClient(&own)
	s := New(rdb, cfg)
	s.where = fmt.Sprintf("%s://%s/%s/%d",
		scheme(kindSentinel, own.TLSConfig), hostList(own.SentinelAddrs), url.PathEscape(own.MasterName), own.DB)
	return s, rdb.Close, nil
}

// address is a URL in its parts.
type address struct {
	kind  string
	tls   bool
	user  *url.Userinfo
	hosts []string // at least one; with ports
	path  string   // percent-encoded
	query url.Values
}

func parseAddress(text string) (address, error) {
	name, rest, _ := strings.Cut(text, "://")
	k, known := kinds[name]
	if !known {
		return address{}, errAddress
	}
	authority, tail := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, tail = rest[:i], rest[i:]
	}
	if strings.ContainsAny(tail, "@#") {
		return address{}, errEncode
	}
	// net/url takes one host only: the list is taken apart here, everything else there.
	user, list := "", authority
	if i := strings.LastIndex(authority, "@"); i >= 0 {
		user, list = authority[:i+1], authority[i+1:]
	}
	a := address{kind: k.kind, tls: k.tls}
	for host := range strings.SplitSeq(list, ",") {
		u, err := url.Parse("redis://" + user + host + tail)
		if err != nil || (host == "" && list != "") {
			return address{}, errAddress
		}
		query, err := url.ParseQuery(u.RawQuery)
		if err != nil {
			return address{}, errEncode
		}
		a.user, a.path, a.query = u.User, u.EscapedPath(), query
		if host != "" {
			a.hosts = append(a.hosts, hostPort(u, k.port))
		}
	}
	for _, name := range unwanted {
		if a.query.Has(name) {
			return address{}, fmt.Errorf("redisstore: the URL must not have the parameter %s", name)
		}
	}
	return a, a.misplaced()
}

// hostPort is the host of a URL with its port.
func hostPort(u *url.URL, port string) string {
	host := u.Hostname()
	if host == "" {
		host = "localhost"
	}
	if u.Port() != "" {
		port = u.Port()
	}
	return net.JoinHostPort(host, port)
}

// misplaced is the error for parts that this kind of address does not have.
func (a *address) misplaced() error {
	wrong := false
	switch a.kind {
	case kindServer:
		if len(a.hosts) > 1 {
			return errOneServer
		}
	case kindUnix:
		wrong = len(a.hosts) > 0
	case kindSentinel:
		wrong = len(a.hosts) == 0
	case kindCluster:
		wrong = len(a.hosts) == 0 || strings.Trim(a.path, "/") != "" // a Cluster has one database
	}
	if wrong {
		return errAddress
	}
	return nil
}

// take removes a parameter that go-redis does not know.
func (a *address) take(name string) string {
	values := a.query[name]
	delete(a.query, name)
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

func (a *address) openServer(cfg Config) (*Store, func() error, error) {
	set, err := a.takeTLS()
	if err != nil {
		return nil, nil, err
	}
	opt, err := parse(a, redis.ParseURL, a.user, a.path)
	if err != nil {
		return nil, nil, err
	}
	opt.ContextTimeoutEnabled = true
	set.apply(opt.TLSConfig)
	rdb := redis.NewClient(opt)
	return New(rdb, cfg), rdb.Close, nil
}

func (a *address) openCluster(cfg Config) (*Store, func() error, error) {
	set, err := a.takeTLS()
	if err != nil {
		return nil, nil, err
	}
	a.query["addr"] = append(a.query["addr"], a.hosts[1:]...)
	opt, err := parse(a, redis.ParseClusterURL, a.user, "")
	if err != nil {
		return nil, nil, err
	}
	opt.ContextTimeoutEnabled = true
	set.applyToMany(opt.TLSConfig)
	rdb := redis.NewClusterClient(opt)
	return New(rdb, cfg), rdb.Close, nil
}

func (a *address) openSentinel(cfg Config) (*Store, func() error, error) {
	set, err := a.takeTLS()
	if err != nil {
		return nil, nil, err
	}
	name, db, _ := strings.Cut(strings.Trim(a.path, "/"), "/")
	master, err := url.PathUnescape(name)
	if err != nil || master == "" {
		return nil, nil, errAddress
	}
	// For go-redis the user of the URL is the sentinels', and the servers' a parameter.
	var sentinelUser *url.Userinfo
	if user, password := a.take("sentinel_user"), a.take("sentinel_password"); user != "" || password != "" {
		sentinelUser = url.UserPassword(user, password)
	}
	a.query["addr"] = append(a.query["addr"], a.hosts[1:]...)
	opt, err := parse(a, redis.ParseFailoverURL, sentinelUser, "/"+db)
	if err != nil {
		return nil, nil, err
	}
	opt.MasterName, opt.Username = master, a.user.Username()
	opt.Password, _ = a.user.Password()
	set.applyToMany(opt.TLSConfig)
	return OpenSentinel(opt, cfg)
}

// Limits of numbers in addresses, far above what is useful.
const (
	maxNumber = 1 << 26
	maxConns  = 100_000
)

// sane says whether go-redis takes a number without a panic, at once or when it connects.
func sane(name string, values []string) bool {
	for _, v := range values {
		n, err := strconv.Atoi(v)
		switch {
		case errors.Is(err, strconv.ErrRange):
			return false
		case err != nil: // it is go-redis' to judge
			continue
		}
		least, most := -1, maxNumber
		switch name {
		case "pool_size", "min_idle_conns", "max_idle_conns", "max_active_conns":
			least, most = 0, maxConns
		case "pipeline_pool_size":
			most = maxConns
		}
		if n < least || n > most {
			return false
		}
	}
	return true
}

func errParameter(name string) error {
	return fmt.Errorf("redisstore: parameter %q of the URL is unknown here or has a value that it cannot have", name)
}

// parse has go-redis read what is left of an address. Its errors may repeat what they complain about, so the parameter
// that is wrong is found by trying each alone.
func parse[T any](a *address, read func(string) (T, error), user *url.Userinfo, path string) (T, error) {
	u := url.URL{Scheme: "redis", User: user}
	switch {
	case a.kind == kindUnix:
		u.Scheme = "unix"
	case a.tls:
		u.Scheme = "rediss"
	}
	if len(a.hosts) > 0 {
		u.Host = a.hosts[0]
	}
	base := u.String() + path
	for _, name := range slices.Sorted(maps.Keys(a.query)) {
		if !sane(name, a.query[name]) {
			var none T
			return none, errParameter(name)
		}
	}
	opt, err := read(base + "?" + a.query.Encode())
	if err == nil {
		return opt, nil
	}
	if opt, err = read(base); err != nil {
		return opt, errAddress
	}
	for _, name := range slices.Sorted(maps.Keys(a.query)) {
		if _, err := read(base + "?" + url.Values{name: a.query[name]}.Encode()); err != nil {
			return opt, errParameter(name)
		}
	}
	return opt, errAddress
}
