// Command mutants breaks one guard of the code after the other, and shows that a test fails each time. It changes no file:
// the compiler is given another text for one of them. See the list in the files of this folder.
//
//	go run ./internal/mutants            # all, one line each; an exit code of 1 if one survives
//	go run ./internal/mutants -run fence # those whose name matches
//	go run ./internal/mutants -list
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// mutant is one small change, and where a test must notice it.
type mutant struct {
	name     string
	file     string // below the module's root
	old, new string // old stands there exactly once
	tests    string // package patterns
	run      string // of these packages; empty is all tests
}

const limit = 10 * time.Minute // of one mutant; one that hangs is noticed, too

func main() {
	pattern := flag.String("run", "", "only mutants whose name matches this regular expression")
	list := flag.Bool("list", false, "list the mutants and end")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	survivors, err := try(ctx, *pattern, *list)
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(2) //nolint:gocritic // nothing is left to be cleaned up
	case survivors > 0:
		fmt.Fprintf(os.Stderr, "mutants: %d survived: no test notices that the guard is gone\n", survivors)
		os.Exit(1)
	}
}

func try(ctx context.Context, pattern string, list bool) (survivors int, err error) {
	want, err := regexp.Compile(pattern)
	if err != nil {
		return 0, err
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	tried := 0
	for _, m := range mutants() {
		if !want.MatchString(m.name) {
			continue
		}
		if list {
			fmt.Printf("%s\n\t%s: %s -> %s\n", m.name, m.file, oneLine(m.old), oneLine(m.new))
			continue
		}
		begun := time.Now()
		killer, err := m.kill(ctx, root, dir)
		if err != nil {
			return survivors, fmt.Errorf("%s: %w", m.name, err)
		}
		tried++
		if killer == "" {
			survivors++
			killer = "SURVIVED"
		}
		fmt.Printf("%-70s %-60s %5.1fs\n", m.name, killer, time.Since(begun).Seconds())
	}
	if !list {
		fmt.Printf("%d mutants, %d found, %d survived\n", tried, tried-survivors, survivors)
	}
	return survivors, nil
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	return strings.TrimSpace(string(out)), err
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// apply returns the file's text with the change.
func (m *mutant) apply(root string) (string, error) {
	text, err := os.ReadFile(filepath.Join(root, m.file)) //nolint:gosec // a file of this module
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(text), m.old); n != 1 {
		return "", fmt.Errorf("%s has %d times %q, and it should be once; has the code changed?", m.file, n, m.old)
	}
	return strings.Replace(string(text), m.old, m.new, 1), nil
}

// kill runs the tests with the change, and returns the first one that fails; "" if none does.
func (m *mutant) kill(ctx context.Context, root, dir string) (string, error) {
	text, err := m.apply(root)
	if err != nil {
		return "", err
	}
	changed := filepath.Join(dir, "changed"+filepath.Ext(m.file))
	overlay := filepath.Join(dir, "overlay.json")
	config, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(root, m.file): changed}})
	if err != nil {
		return "", err
	}
	if err := errors.Join(os.WriteFile(changed, []byte(text), 0o600), os.WriteFile(overlay, config, 0o600)); err != nil {
		return "", err
	}
	args := []string{"test", "-count=1", "-failfast", "-timeout", limit.String(), "-overlay", overlay}
	if m.run != "" {
		args = append(args, "-run", m.run)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, strings.Fields(m.tests)...)...) //nolint:gosec // of the list
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	return verdict(string(out), err)
}

var failed = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)

// verdict tells a test that failed from a change that does not compile, which proves nothing.
func verdict(out string, err error) (string, error) {
	if err == nil {
		return "", nil
	}
	if m := failed.FindAllStringSubmatch(out, -1); m != nil {
		deepest := m[0][1]
		for _, f := range m {
			if strings.HasPrefix(f[1], deepest) {
				deepest = f[1]
			}
		}
		return deepest, nil
	}
	if strings.Contains(out, "panic: ") || strings.Contains(out, "\nFAIL\t") && !strings.Contains(out, "[build failed]") && !strings.Contains(out, "[setup failed]") {
		return "a panic, or the end of the time", nil
	}
	return "", fmt.Errorf("the tests did not run: %w\n%s", err, out)
}
