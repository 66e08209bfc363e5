package main

import (
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// options turns settings into options of the client, and reads every file once, so that an error can say which setting
// names it.
func (l link) options() ([]nats.Option, error) {
	opts, err := l.loginOptions()
	if err != nil {
		return nil, err
	}
	encryption, err := l.tlsOptions()
	if err != nil {
		return nil, err
	}
	opts = append(opts, encryption...)
	if l.has(inboxField) {
		opts = append(opts, nats.CustomInboxPrefix(l.get(inboxField)))
	}
	// An option that does not like its value says so now.
	probe := nats.GetDefaultOptions()
	for _, opt := range opts {
		if err := opt(&probe); err != nil {
			return nil, fmt.Errorf("settings of the connection: %w", err)
		}
	}
	return opts, nil
}

func (l link) loginOptions() ([]nats.Option, error) {
	switch {
	case l.has(userField):
		user, err := l[userField].text()
		if err != nil {
			return nil, err
		}
		if !l.has(passwordField) {
			return []nats.Option{nats.UserInfo(user, ""), nats.Token(user)}, nil
		}
		password, err := l[passwordField].text()
		return []nats.Option{nats.UserInfo(user, password)}, err
	case l.has(tokenField):
		token, err := l[tokenField].text()
		return []nats.Option{nats.Token(token)}, err
	case l.has(credsField):
		return l[credsField].credentials()
	case l.has(nkeyField):
		return l[nkeyField].nkey()
	case l.has(jwtField):
		return l.jwt()
	}
	return nil, nil
}

// jwt logs in with a token, and a signature if there is a seed.
func (l link) jwt() ([]nats.Option, error) {
	token, err := l[jwtField].text()
	if err != nil {
		return nil, err
	}
	if !l.has(seedField) {
		unsigned := func([]byte) ([]byte, error) { return nil, nil }
		return []nats.Option{nats.UserJWT(func() (string, error) { return token, nil }, unsigned)}, nil
	}
	seed, err := l[seedField].text()
	if err != nil {
		return nil, err
	}
	key, err := nkeys.FromSeed([]byte(seed))
	if err != nil {
		return nil, fmt.Errorf("%s is no seed: %w", l[seedField].From, err)
	}
	key.Wipe()
	return []nats.Option{nats.UserJWTAndSeed(token, seed)}, nil
}

// credentials logs in with a file, which is read again at each reconnect, so that it can be renewed.
func (s setting) credentials() ([]nats.Option, error) {
	path, content, err := s.content()
	if err != nil {
		return nil, err
	}
	key, err := nkeys.ParseDecoratedUserNKey(content)
	if err != nil {
		return nil, fmt.Errorf("%s holds no credentials, which are a JWT and a seed as nsc generate creds writes them: %w",
			s.name(path), err)
	}
	key.Wipe()
	if path != "" {
		return []nats.Option{nats.UserCredentials(path)}, nil
	}
	return []nats.Option{nats.UserCredentialBytes(content)}, nil
}

func (s setting) nkey() ([]nats.Option, error) {
	path, content, err := s.content()
	if err != nil {
		return nil, err
	}
	key, err := nkeys.ParseDecoratedUserNKey(content)
	if err != nil {
		return nil, fmt.Errorf("%s holds no seed of a user's nkey: %w", s.name(path), err)
	}
	public, err := key.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.name(path), err)
	}
	return []nats.Option{nats.Nkey(public, key.Sign)}, nil
}

func (l link) tlsOptions() ([]nats.Option, error) {
	var opts []nats.Option
	if l.has(certField) {
		cert, err := l[certField].path()
		if err != nil {
			return nil, err
		}
		key, err := l[keyField].path()
		if err != nil {
			return nil, err
		}
		for _, file := range []setting{{cert, l[certField].From}, {key, l[keyField].From}} {
			if _, err := os.ReadFile(file.Value); err != nil {
				return nil, file.unreadable(err)
			}
		}
		if _, err := tls.LoadX509KeyPair(cert, key); err != nil {
			return nil, fmt.Errorf("%s and %s are no certificate with its key: %w", l[certField].name(cert), l[keyField].name(key), err)
		}
		opts = append(opts, nats.ClientCert(cert, key))
	}
	if l.has(caField) {
		path, err := l[caField].path()
		if err != nil {
			return nil, err
		}
		if _, err := os.ReadFile(path); err != nil {
			return nil, l[caField].unreadable(err)
		}
		if err := nats.RootCAs(path)(&nats.Options{}); err != nil {
			return nil, fmt.Errorf("%s holds no certificate: it must be PEM", l[caField].name(path))
		}
		opts = append(opts, nats.RootCAs(path))
	}
	if l.get(tlsFirstField) == "true" {
		opts = append(opts, nats.TLSHandshakeFirst())
	}
	return opts, nil
}

// Where values can be kept, as the nats CLI writes it.
const (
	fileScheme = "file://"
	envScheme  = "env://"
	dataScheme = "data:"
)

// elsewhere resolves a value that says where the real one is; ok is false for one that does not.
func (s setting) elsewhere() (content []byte, ok bool, err error) {
	switch {
	case strings.HasPrefix(s.Value, "nsc://"), strings.HasPrefix(s.Value, "op://"):
		scheme, _, _ := strings.Cut(s.Value, "://")
		return nil, true, usagef("%s begins with %s://, which idemq does not support; name a file or a variable (env://NAME)",
			s.From, scheme)
	case strings.HasPrefix(s.Value, envScheme):
		name := strings.TrimPrefix(s.Value, envScheme)
		v := os.Getenv(name)
		if v == "" {
			return nil, true, fmt.Errorf("%s names the variable %s, which is not set", s.From, name)
		}
		return []byte(v), true, nil
	case strings.HasPrefix(s.Value, dataScheme):
		_, encoded, ok := strings.Cut(s.Value, ";base64,")
		content, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil {
			return nil, true, fmt.Errorf("%s is not of the form data:;base64,…", s.From)
		}
		return content, true, nil
	}
	return nil, false, nil
}

// text is a value that is not a file's name.
func (s setting) text() (string, error) {
	content, ok, err := s.elsewhere()
	if err == nil && !ok && strings.HasPrefix(s.Value, fileScheme) {
		ok = true
		if content, err = os.ReadFile(expand(s.Value)); err != nil {
			err = s.unreadable(err)
		}
	}
	if !ok || err != nil {
		return s.Value, err
	}
	return strings.TrimRight(string(content), "\r\n"), nil
}

// content reads the file that the value names. There is no path if the value names something else.
func (s setting) content() (path string, content []byte, err error) {
	if content, ok, err := s.elsewhere(); ok || err != nil {
		return "", content, err
	}
	path = expand(s.Value)
	if content, err = os.ReadFile(path); err != nil {
		return "", nil, s.unreadable(err)
	}
	return path, content, nil
}

// path is a value that must be the name of a file.
func (s setting) path() (string, error) {
	if _, ok, err := s.elsewhere(); err != nil {
		return "", err
	} else if ok {
		return "", usagef("%s must name a file", s.From)
	}
	return expand(s.Value), nil
}

// unreadable shows the file's name only if it cannot be the secret itself, given by mistake.
func (s setting) unreadable(err error) error {
	if looksSecret(s.Value) {
		return usagef("%s must name a file; it seems to hold the secret itself", s.From)
	}
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		err = p.Err
	}
	return fmt.Errorf("cannot read %s: %w", s.name(expand(s.Value)), err)
}

// name is a file's name with the setting that names it.
func (s setting) name(path string) string {
	if path == "" {
		return s.From
	}
	return fmt.Sprintf("%s (%s)", path, s.From)
}

func looksSecret(v string) bool {
	_, err := nkeys.FromSeed([]byte(strings.TrimSpace(v)))
	return err == nil || strings.HasPrefix(v, "eyJ") || strings.Contains(v, "-----BEGIN")
}

// expand makes a path of what stands in a context: ~ and variables are not the shell's there.
func expand(path string) string {
	path = os.ExpandEnv(strings.TrimPrefix(path, fileScheme))
	if rest, ok := strings.CutPrefix(path, "~"); ok && (rest == "" || os.IsPathSeparator(rest[0])) {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	return path
}
