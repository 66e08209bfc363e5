package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Contexts are read here, not with a library of theirs: natscontext of orbit.go connects at once, so that no flag could
// override a field, knows no user_seed, and takes an unreadable selection for none; that of jsm.go can write, runs other
// programs, and brings a server and a terminal library along.

// unsupportedFields of a context change how to connect, in ways that idemq does not have.
var unsupportedFields = map[string]string{
	"nsc":                    "write a credentials file with nsc generate creds, and name it in creds",
	"socks_proxy":            "tunnel the port instead",
	"windows_cert_store":     "name files in cert and key",
	"windows_cert_match":     "name files in cert and key",
	"windows_cert_match_by":  "name files in cert and key",
	"windows_ca_certs_match": "name a file in ca",
}

// idleFields of a context have nothing to do with what idemq does.
var idleFields = map[string]bool{"name": true, "description": true, "color_scheme": true, "jetstream_event_prefix": true}

// contextLevel reads the named context, else the selected one, if any.
func (a *app) contextLevel() (link, error) {
	name, given := a.given("context")
	without, _ := a.given("no-context")
	switch {
	case given && (name == "" || without == "true"):
		return nil, usagef("--context needs a name; --no-context alone does without one")
	case without == "true":
		return link{}, nil
	case !given:
		name = os.Getenv("NATS_CONTEXT")
	}
	if name != "" {
		path, err := contextFile(name)
		if err != nil {
			return nil, err
		}
		l, err := a.readContext(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, usagef("there is no context %q: %s does not exist; nats context ls shows which there are", name, path)
		}
		return l, err
	}
	return a.selectedContext()
}

func (a *app) selectedContext() (link, error) {
	dir, err := contextFolder()
	if err != nil {
		return link{}, nil //nolint:nilerr // without a home there is nothing selected
	}
	selection := filepath.Join(dir, "context.txt")
	content, err := os.ReadFile(selection)
	if errors.Is(err, fs.ErrNotExist) {
		return link{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read which context is selected: %w; --no-context does without one", err)
	}
	name := strings.TrimSpace(string(content))
	if name == "" {
		return link{}, nil
	}
	path, err := contextFile(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", selection, err)
	}
	l, err := a.readContext(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s selects the context %q, but %s does not exist; "+
			"select another with nats context select, or use --no-context", selection, name, path)
	}
	return l, err
}

// contextFolder is where the nats CLI keeps its contexts.
func contextFolder() (string, error) {
	if dir := os.Getenv("XDG_CONFIG_HOME"); dir != "" {
		return filepath.Join(dir, "nats"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("cannot find contexts: %w", err)
	}
	return filepath.Join(home, ".config", "nats"), nil
}

// contextFile is the file of a context. A name that ends in .json may be that of a file anywhere.
func contextFile(name string) (string, error) {
	if strings.HasSuffix(name, ".json") {
		if _, err := os.Stat(name); err == nil || filepath.IsAbs(name) {
			return name, nil
		}
	}
	if strings.Contains(name, "..") || strings.ContainsAny(name, `/\`) {
		return "", usagef("%q is no name of a context: it must have neither .. nor slashes", name)
	}
	dir, err := contextFolder()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "context", name+".json"), nil
}

// readContext reads a context's file. Errors never show what stands in it.
func (a *app) readContext(path string) (link, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the context: %w", err)
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(content, &raw); err != nil {
		where := ""
		if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
			where = fmt.Sprintf(" at byte %d", syntax.Offset)
		}
		return nil, fmt.Errorf("the context %s is not the JSON object that nats context writes%s", path, where)
	}
	known := map[string]bool{}
	for _, d := range fields {
		known[d.name] = d.name != urlLoginField
	}
	l := link{}
	for name, v := range raw {
		text, ok := contextValue(name, v)
		switch {
		case ok && text == "" || idleFields[name]:
		case unsupportedFields[name] != "":
			return nil, usagef("%s sets %q, which idemq does not support: %s", path, name, unsupportedFields[name])
		case !known[name]:
			a.log.Warn("a field of the context is not known, and not used", "context", path, "field", name)
		case !ok:
			return nil, fmt.Errorf("%q in the context %s is of the wrong type", name, path)
		default:
			l[name] = setting{text, fmt.Sprintf("%q in the context %s", name, path)}
		}
	}
	return l, nil
}

// contextValue returns a field's text, "" for one that is not set, or false if it is something else than text.
func contextValue(name string, v json.RawMessage) (string, bool) {
	switch string(v) {
	case "null", "false", "[]":
		return "", true
	}
	if name == tlsFirstField {
		var on bool
		err := json.Unmarshal(v, &on)
		return strconv.FormatBool(on), err == nil
	}
	var text string
	err := json.Unmarshal(v, &text)
	return text, err == nil
}
