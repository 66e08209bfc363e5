package main

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// What makes up a connection to NATS. The names are those in contexts of the nats CLI.
const (
	urlField       = "url"
	userField      = "user"
	passwordField  = "password"
	tokenField     = "token"
	credsField     = "creds"
	nkeyField      = "nkey"
	jwtField       = "user_jwt"
	seedField      = "user_seed"
	certField      = "cert"
	keyField       = "key"
	caField        = "ca"
	tlsFirstField  = "tls_first"
	domainField    = "jetstream_domain"
	apiPrefixField = "jetstream_api_prefix"
	inboxField     = "inbox_prefix"

	urlLoginField = "login in the URL" // in no context: the URL holds user and password, or a token
)

const defaultURL = "nats://127.0.0.1:4222"

const connectionHelp = `

Connection, as the nats CLI has it: flags come before variables, these before the context, field by field.
  server   --nats URL (NATS_URL), else that of the context, else ` + defaultURL + `
  context  --context NAME (NATS_CONTEXT), else the one that nats context select has chosen; --no-context for none
  login    one of --creds FILE (NATS_CREDS), --nkey FILE (NATS_NKEY), --user and --password (NATS_USER, NATS_PASSWORD),
           --token (NATS_TOKEN). Others can see the command line: use the variables for passwords and tokens.
  TLS      --tlsca FILE (NATS_CA), --tlscert and --tlskey FILE (NATS_CERT, NATS_KEY), --tlsfirst
  subjects --js-domain NAME (NATS_JS_DOMAIN) or --js-api-prefix, --inbox-prefix`

// field is one of them. Of the kinds of one family only one can be used.
type field struct {
	name, flag, variable, usage string
	family, kind                string
}

const (
	loginFamily     = "login"
	jetStreamFamily = "jetstream"

	userKind = "user"
	jwtKind  = "jwt"
)

var fields = []field{
	{
		name: urlField, flag: "nats", variable: "NATS_URL",
		usage: "URL of the NATS server, or several with commas (NATS_URL, default " + defaultURL + ")",
	},
	{
		name: credsField, flag: "creds", variable: "NATS_CREDS", family: loginFamily, kind: credsField,
		usage: "file with credentials (NATS_CREDS)",
	},
	{
		name: nkeyField, flag: "nkey", variable: "NATS_NKEY", family: loginFamily, kind: nkeyField,
		usage: "file with the seed of an nkey (NATS_NKEY)",
	},
	{
		name: userField, flag: "user", variable: "NATS_USER", family: loginFamily, kind: userKind,
		usage: "user, or a token if there is no password (NATS_USER)",
	},
	{
		name: passwordField, flag: "password", variable: "NATS_PASSWORD", family: loginFamily, kind: userKind,
		usage: "password; others can see it here, so NATS_PASSWORD is better",
	},
	{
		name: tokenField, flag: "token", variable: "NATS_TOKEN", family: loginFamily, kind: tokenField,
		usage: "token; others can see it here, so NATS_TOKEN is better",
	},
	{name: jwtField, variable: "NATS_JWT", family: loginFamily, kind: jwtKind},
	{name: seedField, variable: "NATS_SEED", family: loginFamily, kind: jwtKind},
	{name: urlLoginField, family: loginFamily, kind: urlLoginField},
	{name: certField, flag: "tlscert", variable: "NATS_CERT", usage: "file with the client's certificate (NATS_CERT)"},
	{name: keyField, flag: "tlskey", variable: "NATS_KEY", usage: "file with the key of that certificate (NATS_KEY)"},
	{
		name: caField, flag: "tlsca", variable: "NATS_CA",
		usage: "file with the authorities that may sign the server's certificate (NATS_CA)",
	},
	{name: tlsFirstField, flag: "tlsfirst", usage: "TLS before the server's greeting"},
	{
		name: domainField, flag: "js-domain", variable: "NATS_JS_DOMAIN", usage: "JetStream domain (NATS_JS_DOMAIN)",
		family: jetStreamFamily, kind: domainField,
	},
	{
		name: apiPrefixField, flag: "js-api-prefix", family: jetStreamFamily, kind: apiPrefixField,
		usage: "prefix of JetStream's API",
	},
	{name: inboxField, flag: "inbox-prefix", usage: "prefix of inboxes"},
}

// setting is the value of a field, and where it came from. A value may be a secret; where it came from never is.
type setting struct{ Value, From string }

// link is a connection's settings by the names of their fields.
type link map[string]setting

func (l link) get(name string) string { return l[name].Value }

func (l link) has(name string) bool { return l.get(name) != "" }

// connectionFlags defines the flags, none of which has a default: help would show secrets of variables.
func (a *app) connectionFlags(c *cobra.Command) {
	f := c.PersistentFlags()
	for _, d := range fields {
		switch {
		case d.name == urlField:
			f.StringVarP(&a.nats, d.flag, "s", "", d.usage)
		case d.name == tlsFirstField:
			f.Bool(d.flag, false, d.usage)
		case d.flag != "":
			f.String(d.flag, "", d.usage)
		}
	}
	f.String("context", "", "context of the nats CLI (NATS_CONTEXT, else the selected one)")
	f.Bool("no-context", false, "do without the selected context")
	a.given = func(name string) (string, bool) {
		flag := f.Lookup(name)
		return flag.Value.String(), flag.Changed
	}
}

// connectionFlag returns the first flag on the command line that says how to connect.
func (a *app) connectionFlag() string {
	for _, d := range fields {
		if d.flag == "" {
			continue
		}
		if _, ok := a.given(d.flag); ok {
			return "--" + d.flag
		}
	}
	return ""
}

// choosesServer reports whether somebody has said which server to use; a context that is merely selected does not.
func (a *app) choosesServer() bool {
	_, url := a.given("nats")
	_, context := a.given("context")
	return url || context || os.Getenv("NATS_URL") != ""
}

// useServer connects to this server, whatever flags, variables and contexts say.
func (a *app) useServer(url string) {
	a.settled, a.nats = link{urlField: {url, "embedded"}}, url
}

// encode makes a text of the link for another process of ours. It may hold secrets, and belongs into no argument.
func (l link) encode() (string, error) {
	b, err := json.Marshal(l)
	return string(b), err
}

// useEncoded connects as another process would, whatever flags, variables and contexts say.
func (a *app) useEncoded(text string) error {
	l := link{}
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		return errors.New("how to connect was not passed on")
	}
	a.settled, a.nats = l, l.get(urlField)
	return nil
}

func (a *app) flagLevel() link {
	l := link{}
	for _, d := range fields {
		if d.flag == "" {
			continue
		}
		if v, ok := a.given(d.flag); ok && v != "" {
			l[d.name] = setting{v, "--" + d.flag}
		}
	}
	return l
}

func variableLevel() (link, error) {
	if os.Getenv("NATS_SOCKS_PROXY") != "" {
		return nil, usagef("NATS_SOCKS_PROXY is set, and idemq cannot connect through a SOCKS proxy; unset it or tunnel the port")
	}
	l := link{}
	for _, d := range fields {
		if d.variable == "" {
			continue
		}
		if v := os.Getenv(d.variable); v != "" {
			l[d.name] = setting{v, d.variable}
		}
	}
	return l, nil
}

// link puts together how to connect: flags, then variables, then the context, then defaults.
func (a *app) link() (link, error) {
	if a.settled != nil {
		return a.settled, nil
	}
	variables, err := variableLevel()
	if err != nil {
		return nil, err
	}
	fromContext, err := a.contextLevel()
	if err != nil {
		return nil, err
	}
	l, err := merge(a.flagLevel(), variables, fromContext, link{urlField: {defaultURL, "default"}})
	if err != nil {
		return nil, err
	}
	a.settled, a.nats = l, l.get(urlField)
	return l, nil
}

// merge takes each field from the first level that has it. The first level that has a login decides what kind of login
// is used: what lower levels say about other kinds is for somebody else.
func merge(levels ...link) (link, error) {
	l, chosen := link{}, map[string]field{}
	for _, level := range levels {
		if u, ok := level[urlField]; ok && !l.has(urlField) && hasLogin(u.Value) {
			level = maps.Clone(level)
			level[urlLoginField] = u
		}
		here := map[string]field{}
		for _, d := range fields {
			s, ok := level[d.name]
			if !ok || l.has(d.name) {
				continue
			}
			if d.family != "" {
				if c, ok := chosen[d.family]; ok && c.kind != d.kind {
					continue
				}
				if h, ok := here[d.family]; ok && h.kind != d.kind {
					return nil, usagef("%s and %s exclude each other: %s", level[h.name].From, s.From, onlyOne[d.family])
				}
				here[d.family] = d
			}
			l[d.name] = s
		}
		maps.Copy(chosen, here)
	}
	if !l.has(urlLoginField) {
		l[urlField] = setting{withoutLogin(l.get(urlField)), l[urlField].From}
	}
	return l, l.check()
}

var onlyOne = map[string]string{
	loginFamily:     "log in either with a user and password, a token, an nkey, or credentials",
	jetStreamFamily: "give either the domain or the prefix",
}

// check finds settings that mean nothing without another, and URLs that cannot be told apart from their passwords.
func (l link) check() error {
	pairs := [][2]string{{passwordField, userField}, {seedField, jwtField}, {certField, keyField}, {keyField, certField}}
	for _, pair := range pairs {
		if l.has(pair[0]) && !l.has(pair[1]) {
			return usagef("%s goes with %s", l[pair[0]].From, ways(pair[1]))
		}
	}
	if first := l.get(tlsFirstField); first != "" {
		if _, err := strconv.ParseBool(first); err != nil {
			return usagef("%s must be true or false", l[tlsFirstField].From)
		}
	}
	before := ""
	for i, u := range strings.Split(l.get(urlField), ",") {
		_, rest, ok := strings.Cut(u, "://")
		if !ok {
			rest = u
		}
		end := strings.IndexAny(rest, "/?#")
		if end >= 0 && hasLogin(rest[end:]) || i > 0 && !ok && hasLogin(rest) && !hasLogin(before) {
			return l.malformedURL() // some of what looks like a host may be of a password
		}
		before = u
	}
	return nil
}

// malformedURL does not show the URL: what of it is a password is anybody's guess.
func (l link) malformedURL() error {
	return usagef("malformed NATS URL (%s); it must look like nats://host:4222, special characters of passwords percent-encoded",
		l[urlField].From)
}

// ways lists how a field can be given.
func ways(name string) string {
	for _, d := range fields {
		if d.name != name {
			continue
		}
		var all []string
		if d.flag != "" {
			all = append(all, "--"+d.flag)
		}
		if d.variable != "" {
			all = append(all, d.variable)
		}
		return strings.Join(append(all, strconv.Quote(name)+" in a context"), ", ")
	}
	return name
}

func hasLogin(urls string) bool { return strings.Contains(urls, "@") }

// withoutLogin takes user and password out of a comma-separated list of URLs, and nothing else.
func withoutLogin(urls string) string {
	parts := strings.Split(urls, ",")
	for i, p := range parts {
		scheme, rest, ok := strings.Cut(p, "://")
		if !ok {
			scheme, rest = "", p
		}
		rest = rest[strings.LastIndex(rest, "@")+1:]
		if ok {
			rest = scheme + "://" + rest
		}
		parts[i] = rest
	}
	return strings.Join(parts, ",")
}
