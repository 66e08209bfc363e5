package importguard

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/idemq/idemq"

// Modules that packages may be allowed to use.
const (
	backoff       = "github.com/cenkalti/backoff/v5"
	gobreaker     = "github.com/sony/gobreaker/v2"
	chi           = "github.com/go-chi/chi/v5"
	goleak        = "go.uber.org/goleak"
	pgx           = "github.com/jackc/pgx/v5"
	sqlite        = "modernc.org/sqlite"
	goRedis       = "github.com/redis/go-redis/v9"
	gopsutil      = "github.com/shirou/gopsutil/v4"
	plot          = "gonum.org/v1/plot"
	natsGo        = "github.com/nats-io/nats.go"
	jetstreamext  = "github.com/synadia-io/orbit.go/jetstreamext"
	natsServer    = "github.com/nats-io/nats-server/v2"
	rapid         = "pgregory.net/rapid"
	testcontainer = "github.com/testcontainers/testcontainers-go"
	testify       = "github.com/stretchr/testify"
	uuid          = "github.com/google/uuid"
	watermill     = "github.com/ThreeDotsLabs/watermill"
	watermillNATS = "github.com/ThreeDotsLabs/watermill-nats/v2"
)

// layers are the directories in which every package must have a rule.
var layers = []string{"dedup", "consumer", "publisher"}

// rule says what the code of a package, without its tests, may import.
type rule struct {
	pkg     string   // below the module
	own     []string // packages of this module
	modules []string // modules of third parties
	never   []string // modules that must not be compiled with it, even indirectly
}

// rules is the architecture. A new package in one of the layers needs a line.
var rules = []rule{
	{pkg: "dedup", own: []string{"dedup/transition"}, never: []string{natsGo, goRedis}},
	{pkg: "dedup/transition", own: []string{"dedup"}},
	{pkg: "dedup/memstore", own: []string{"dedup", "dedup/transition"}},
	{
		pkg: "dedup/redisstore", own: []string{"dedup", "dedup/transition"},
		modules: []string{goRedis}, never: []string{natsGo},
	},
	{
		pkg: "dedup/kvstore", own: []string{"dedup", "dedup/transition"},
		modules: []string{natsGo}, never: []string{goRedis},
	},
	{pkg: "dedup/sqlstore", own: []string{"dedup", "dedup/transition"}, never: []string{natsGo, goRedis, pgx, sqlite}},
	{pkg: "dedup/sqlstore/pgxtx", own: []string{"dedup"}, modules: []string{pgx}, never: []string{natsGo, goRedis, sqlite}},
	{pkg: "dedup/tieredstore", own: []string{"dedup", "dedup/transition"}, never: []string{natsGo, goRedis}},
	{pkg: "dedup/storetest", own: []string{"dedup", "dedup/transition"}, modules: []string{testify}},

	{pkg: "publisher", modules: []string{uuid, backoff}, never: []string{natsGo, goRedis}},
	{
		pkg: "publisher/natspub", own: []string{"publisher"},
		modules: []string{natsGo}, never: []string{goRedis},
	},
	{
		pkg: "publisher/httppub", own: []string{"publisher", "dedup"},
		modules: []string{backoff}, never: []string{natsGo, goRedis},
	},
	{
		pkg: "publisher/wmpub", own: []string{"publisher"},
		modules: []string{watermill}, never: []string{goRedis, natsGo},
	},

	{
		pkg: "consumer", own: []string{"dedup", "publisher", "internal/breaker"},
		modules: []string{backoff, uuid}, never: []string{natsGo, goRedis},
	},
	{
		pkg: "consumer/natsidem", own: []string{"consumer", "dedup", "publisher", "consumer/deadletter"},
		modules: []string{natsGo}, never: []string{goRedis},
	},
	{pkg: "internal/breaker", modules: []string{gobreaker}, never: []string{natsGo, goRedis}},
	{pkg: "consumer/httpidem", own: []string{"dedup", "internal/breaker"}, never: []string{natsGo, goRedis}},
	{
		pkg: "consumer/wmidem", own: []string{"consumer", "dedup", "publisher"},
		modules: []string{watermill}, never: []string{goRedis, natsGo},
	},
	{
		pkg: "consumer/wmidem/wmnats", own: []string{"consumer", "consumer/natsidem", "consumer/wmidem", "dedup", "publisher/natspub"},
		modules: []string{watermill, natsGo}, never: []string{goRedis},
	},
	{
		pkg: "consumer/deadletter", own: []string{"consumer", "dedup", "publisher"},
		modules: []string{natsGo, jetstreamext}, never: []string{goRedis},
	},
	{
		pkg: "consumer/idemtest", own: []string{"consumer", "dedup", "dedup/memstore", "publisher"},
		never: []string{natsGo, goRedis},
	},
}

// testOnly lists what no production package may compile, and who may import it
// without being a test.
var testOnly = map[string][]string{
	chi:                             nil,
	watermillNATS:                   {"cmd/idemq-bench"},
	plot:                            {"cmd/idemq-bench"},
	gopsutil:                        {"cmd/idemq-bench"},
	testify:                         {"dedup/storetest"},
	rapid:                           {"dedup/storetest"},
	goleak:                          {"internal/testserver"},
	testcontainer:                   {"internal/testserver"},
	sqlite:                          {"cmd", "examples"},
	natsServer:                      {"internal/testserver", "cmd/idemq", "cmd/idemq-bench", "examples"},
	module + "/internal/testserver": nil,
	module + "/dedup/storetest":     nil,
	module + "/consumer/idemtest":   nil,
}

// lean lists what programs must not be compiled with, even indirectly.
var lean = map[string][]string{"cmd/idemq": {watermill, watermillNATS, plot, gopsutil, testcontainer}}

// temporary packages name dependencies before their users exist.
var temporary = []string{"internal/deps"}

// pkg is what go list tells about a package.
type pkg struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Deps       []string
}

// graph holds every package that the module compiles, by import path.
type graph map[string]pkg

// load lists the packages of the module and all that they are compiled with.
func load(t *testing.T) graph {
	t.Helper()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	watch(t, root)
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps",
		"-json=ImportPath,Standard,Imports,Deps", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	g := graph{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else {
			require.NoError(t, err)
		}
		g[p.ImportPath] = p
	}
	require.Contains(t, g, module+"/internal/importguard", "go list did not see the module")
	return g
}

// watch reads the directories of the module, so that go test runs this test
// again when a file changes; it does not see what go list reads.
func watch(t *testing.T, root string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if d != nil && d.IsDir() && path != root && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		return nil
	}))
}

// own returns the packages of the module, below it and sorted.
func (g graph) own() []string {
	var names []string
	for path := range g {
		if name, ok := strings.CutPrefix(path, module+"/"); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// within reports whether path is prefix or lies below it.
func within(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

func withinAny(path string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool { return within(path, prefix) })
}

// check returns how the packages of the layers break the rules.
func check(g graph, rules []rule) []string {
	var broken []string
	for _, name := range g.own() {
		if !withinAny(name, layers) {
			continue
		}
		i := slices.IndexFunc(rules, func(r rule) bool { return r.pkg == name })
		if i < 0 {
			broken = append(broken, fmt.Sprintf("%s has no rule: say here what it may import", name))
			continue
		}
		broken = append(broken, rules[i].check(g)...)
	}
	return broken
}

func (r rule) check(g graph) []string {
	var broken []string
	p := g[module+"/"+r.pkg]
	for _, path := range p.Imports {
		own, isOwn := strings.CutPrefix(path, module+"/")
		switch {
		case g[path].Standard:
		case isOwn && slices.Contains(r.own, own):
		case !isOwn && withinAny(path, r.modules):
		default:
			broken = append(broken, fmt.Sprintf("%s must not import %s", r.pkg, path))
		}
	}
	return append(broken, g.compiles(r.pkg, r.never)...)
}

// compiles returns which of the banned modules a package is compiled with.
func (g graph) compiles(name string, banned []string) []string {
	var broken []string
	for _, b := range banned {
		if slices.ContainsFunc(g[module+"/"+name].Deps, func(path string) bool { return within(path, b) }) {
			broken = append(broken, fmt.Sprintf("whoever imports %s compiles %s", name, b))
		}
	}
	return broken
}

// checkLean returns which programs have grown.
func checkLean(g graph) []string {
	var broken []string
	for name, banned := range lean {
		broken = append(broken, g.compiles(name, banned)...)
	}
	return broken
}

// checkTestOnly returns which packages import what is for tests only.
func checkTestOnly(g graph) []string {
	var broken []string
	for _, name := range g.own() {
		if slices.Contains(temporary, name) {
			continue
		}
		for _, path := range g[module+"/"+name].Imports {
			for prefix, users := range testOnly {
				if within(path, prefix) && !withinAny(name, users) {
					broken = append(broken, fmt.Sprintf("%s must import %s in its tests only", name, path))
				}
			}
		}
	}
	return broken
}

// checkInward returns which packages import the programs around them.
func checkInward(g graph) []string {
	var broken []string
	for _, name := range g.own() {
		for _, path := range g[module+"/"+name].Imports {
			for _, outer := range []string{"cmd", "examples"} {
				if within(path, module+"/"+outer) && !within(name, outer) {
					broken = append(broken, fmt.Sprintf("%s must not import %s", name, path))
				}
			}
		}
	}
	return broken
}

func TestLayersImportWhatTheyMay(t *testing.T) {
	for _, broken := range check(load(t), rules) {
		t.Error(broken)
	}
}

func TestTestLibrariesStayInTests(t *testing.T) {
	for _, broken := range checkTestOnly(load(t)) {
		t.Error(broken)
	}
}

func TestProgramsStayLean(t *testing.T) {
	g := load(t)
	for name := range lean {
		require.Contains(t, g, module+"/"+name)
	}
	for _, broken := range checkLean(g) {
		t.Error(broken)
	}
}

func TestDependenciesPointInward(t *testing.T) {
	for _, broken := range checkInward(load(t)) {
		t.Error(broken)
	}
}

// TestGuardsBite breaks each guard in a made-up module.
func TestGuardsBite(t *testing.T) {
	own := func(imports, deps []string) pkg { return pkg{Imports: imports, Deps: deps} }
	for _, c := range []struct {
		name, pkg string
		p         pkg
		want      string
	}{
		{"third party in the core", "dedup", own([]string{goRedis}, nil), "dedup must not import " + goRedis},
		{"outward import", "dedup", own([]string{module + "/consumer"}, nil), "dedup must not import " + module + "/consumer"},
		{"wrong module", "dedup/redisstore", own([]string{natsGo + "/jetstream"}, nil), "dedup/redisstore must not import"},
		{"indirect module", "dedup/redisstore", own(nil, []string{natsGo}), "whoever imports dedup/redisstore compiles " + natsGo},
		{"package without a rule", "consumer/kafkaidem", own(nil, nil), "consumer/kafkaidem has no rule"},
		{"name that only begins alike", "dedup/redisstore", own([]string{goRedis + "x"}, nil), "must not import"},
		{"test library", "consumer", own([]string{testify + "/require"}, nil), "in its tests only"},
		{"test server", "cmd/idemq", own([]string{module + "/internal/testserver"}, nil), "in its tests only"},
		{"database driver", "consumer/httpidem", own([]string{sqlite}, nil), "in its tests only"},
		{"library of the benchmark", "consumer", own([]string{plot + "/vg"}, nil), "in its tests only"},
		{"program that grows", "cmd/idemq", own(nil, []string{watermill + "/message"}), "whoever imports cmd/idemq compiles " + watermill},
		{"command", "internal/x", own([]string{module + "/cmd/idemq"}, nil), "internal/x must not import"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := graph{module + "/" + c.pkg: c.p}
			broken := slices.Concat(check(g, rules), checkTestOnly(g), checkInward(g), checkLean(g))
			assert.Contains(t, strings.Join(broken, "\n"), c.want)
		})
	}
}
