//go:build unix

package main

import (
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/consumer/deadletter"
	"github.com/idemq/idemq/consumer/natsidem"
	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/kvstore"
	"github.com/idemq/idemq/dedup/memstore"
	"github.com/idemq/idemq/dedup/redisstore"
	"github.com/idemq/idemq/internal/testserver"
)

const (
	permissionsDir = "../../docs/permissions/"
	aclFile        = "redis.acl"
	sitePayload    = 16 << 10
	// refusalLimit is how long a command may take to say that it is not permitted something.
	refusalLimit = 10 * time.Second
	scopeName    = "ORDERS/billing"
	// redisRefuses is how servers of several versions say it.
	redisRefuses = "NOPERM|The user executing the script can't"
)

// site is a NATS server with the users of one of the files in docs/permissions, and perhaps a Redis server with the
// users of the other. Streams and durable are there, as an administrator makes them.
type site struct {
	t     *testing.T
	nats  *testserver.NATSServer
	js    jetstream.JetStream // the administrator's
	users map[string]*server.User
	spied chan *nats.Msg

	redis    *testserver.PrivateRedisServer // nil if records are in JetStream KV
	rdb      *redis.Client                  // the administrator's
	commands map[string][]string            // by user
}

// newSite starts one; change, if there is one, changes the rights first.
func newSite(t *testing.T, inRedis bool, change func(map[string]*server.User)) *site {
	t.Helper()
	s := &site{t: t, users: map[string]*server.User{}, spied: make(chan *nats.Msg, 1<<16)}
	file := "nats-kv.conf"
	if inRedis {
		file = "nats.conf"
		s.startRedis()
	}
	parsed, err := server.ProcessConfigFile(permissionsDir + file)
	require.NoError(t, err)
	for _, u := range parsed.Users {
		s.users[u.Username] = u
	}
	if change != nil {
		change(s.users)
	}
	s.nats = testserver.NATS(t, func(o *server.Options) { o.Users, o.MaxPayload = parsed.Users, sitePayload })
	nc := s.conn("admin", nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // it sees headers that nobody can parse
	s.js, err = jetstream.New(nc)
	require.NoError(t, err)
	d, err := dedup.New(memstore.New(memstore.Config{}), dedup.Config{})
	require.NoError(t, err)
	_, err = natsidem.EnsureConsumer(t.Context(), s.js, "ORDERS", []string{"orders.>"}, "billing", d, natsidem.Config{})
	require.NoError(t, err)
	require.NoError(t, deadletter.New(s.js, deadletter.Config{}).Ensure(t.Context()))
	require.NoError(t, deadletter.NewReplayStream(s.js, deadletter.ReplayStreamConfig{}).Ensure(t.Context()))
	if !inRedis {
		_, err = kvstore.New(t.Context(), s.js, kvstore.Config{})
		require.NoError(t, err)
	}
	_, err = nc.ChanSubscribe(">", s.spied)
	require.NoError(t, err)
	return s
}

func (s *site) startRedis() {
	path, err := filepath.Abs(permissionsDir + aclFile)
	require.NoError(s.t, err)
	s.commands = aclCommands(s.t)
	s.redis = testserver.PrivateRedis(s.t, "--aclfile", path)
	s.rdb = s.redisClient("admin")
}

// aclCommands returns the commands that the users of the ACL file may give.
func aclCommands(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(permissionsDir + aclFile)
	require.NoError(t, err)
	commands := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		for _, w := range words {
			if command, ok := strings.CutPrefix(w, "+"); ok && !strings.HasPrefix(command, "@") {
				commands[words[1]] = append(commands[words[1]], command)
			}
		}
	}
	return commands
}

func (s *site) redisClient(user string) *redis.Client {
	opt, err := redis.ParseURL(as(user, s.redis.URL()))
	require.NoError(s.t, err)
	c := redis.NewClient(opt)
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// as puts a user of the files into a URL.
func as(user, url string) string {
	return strings.Replace(url, "://", "://"+user+":change-me-"+user+"@", 1)
}

func (s *site) conn(user string, opts ...nats.Option) *nats.Conn {
	s.t.Helper()
	return s.nats.Conn(s.t, append([]nats.Option{nats.UserInfo(user, "change-me-"+user)}, opts...)...)
}

// store is where a user finds the records.
func (s *site) store(user string) string {
	if s.redis == nil {
		return "kv"
	}
	return as(user, s.redis.URL())
}

// run runs a command as a user.
func (s *site) run(user string, args ...string) (*process, int) {
	s.t.Helper()
	return idemq(s.t, append(args, "--nats", as(user, s.nats.URL()), "--store", s.store(user))...)
}

// allowed runs a command that the user may run, without a word about permissions.
func (s *site) allowed(user string, args ...string) *process {
	s.t.Helper()
	p, code := s.run(user, args...)
	require.Equal(s.t, exitFine, code, p.err.String())
	require.NotRegexp(s.t, "does not permit|NOPERM|could not note", p.err.String())
	return p
}

// refused runs a command that the user may not run: it says so in time, and changes nothing.
func (s *site) refused(user, naming string, args ...string) {
	s.t.Helper()
	before, start := s.snapshot(), time.Now()
	p, code := s.run(user, args...)
	assert.Equal(s.t, exitFailed, code, args)
	assert.Less(s.t, time.Since(start), refusalLimit, args)
	assert.Regexp(s.t, "does not permit this user|"+redisRefuses, p.err.String(), args)
	assert.Contains(s.t, p.err.String(), naming, args)
	assert.Equal(s.t, before, s.snapshot(), args)
}

// snapshot is all that idemq keeps.
func (s *site) snapshot() map[string]string {
	s.t.Helper()
	all := map[string]string{}
	for info := range s.js.ListStreams(s.t.Context()).Info() {
		st := info.State
		all[info.Config.Name] = fmt.Sprint("last ", st.LastSeq)
		if !info.Config.AllowMsgTTL { // whose messages go by themselves
			all[info.Config.Name] = fmt.Sprint("from ", st.FirstSeq, " to ", st.LastSeq, ", deleted ", st.NumDeleted)
		}
	}
	if s.rdb == nil {
		return all
	}
	names, err := s.rdb.Keys(s.t.Context(), "*").Result()
	require.NoError(s.t, err)
	for _, name := range names {
		all[name], err = s.rdb.Get(s.t.Context(), name).Result()
		require.NoError(s.t, err)
	}
	return all
}

// rarelyUsed is what no quiet test needs: the server is asked so when letters or records vanish from a listing under way.
var rarelyUsed = []string{"$JS.API.CONSUMER.INFO.IDEMQ_DEAD.*", "$JS.API.CONSUMER.INFO.KV_idemq.*"}

// usesAll runs what a role does and wants each of its rights used.
func (s *site) usesAll(user string, work func()) {
	s.t.Helper()
	s.subjects()
	if s.rdb != nil {
		require.NoError(s.t, s.rdb.ScriptFlush(s.t.Context()).Err())
		require.NoError(s.t, s.rdb.ConfigResetStat(s.t.Context()).Err())
		waiting := redisstore.New(s.redisClient("admin"), redisstore.Config{})
		for _, id := range []string{"done", "dead"} { // somebody to be told
			_, err := waiting.Watch(s.t.Context(), dedup.Key{Scope: scopeName, ID: id})
			require.NoError(s.t, err)
		}
	}
	work()
	seen := s.subjects()
	for _, right := range s.users[user].Permissions.Publish.Allow {
		used := slices.ContainsFunc(slices.Collect(maps.Keys(seen)), func(subject string) bool { return server.SubjectsCollide(right, subject) })
		assert.Equal(s.t, !slices.Contains(rarelyUsed, right), used, "%s may publish to %s: is it needed?", user, right)
	}
	if s.rdb == nil {
		return
	}
	stats, err := s.rdb.Info(s.t.Context(), "commandstats").Result()
	require.NoError(s.t, err)
	for _, command := range s.commands[user] {
		assert.Regexp(s.t, "cmdstat_"+regexp.QuoteMeta(command)+`(\|[a-z]+)?:calls=[1-9]`, stats, "%s may %s: is it needed?", user, command)
	}
}

// subjects returns what was published since the last call.
func (s *site) subjects() map[string]bool {
	require.NoError(s.t, s.js.Conn().Flush()) // what was published before is in the channel then
	seen := map[string]bool{}
	for {
		select {
		case m := <-s.spied:
			seen[m.Subject] = true
		default:
			return seen
		}
	}
}

// publishRaw publishes, as the administrator, a message whose headers no client can parse.
func (s *site) publishRaw(subject string) {
	s.t.Helper()
	c, err := (&net.Dialer{}).DialContext(s.t.Context(), "tcp", strings.TrimPrefix(s.nats.URL(), "nats://"))
	require.NoError(s.t, err)
	defer c.Close()
	const header = "NATS/1.0\r\nno colon here\r\n\r\n"
	_, err = fmt.Fprintf(c, "CONNECT {\"headers\":true,\"verbose\":false,\"protocol\":1,\"user\":\"admin\",\"pass\":\"change-me-admin\"}\r\n"+
		"HPUB %s %s %s\r\n%s\r\nPING\r\n", subject, strconv.Itoa(len(header)), strconv.Itoa(len(header)), header)
	require.NoError(s.t, err)
	require.NoError(s.t, c.SetReadDeadline(time.Now().Add(patience)))
	buf, got := make([]byte, 4096), ""
	for !strings.Contains(got, "PONG") {
		n, err := c.Read(buf)
		require.NoError(s.t, err)
		got += string(buf[:n])
	}
}
