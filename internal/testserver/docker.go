package testserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/log"
	"github.com/testcontainers/testcontainers-go/wait"
)

// DefaultRedisImage is the image of Redis containers unless
// IDEMQ_TEST_REDIS_IMAGE names another.
const DefaultRedisImage = "redis:8-alpine"

const (
	redisPort = "6379/tcp"

	// runLabel carries IDEMQ_TEST_RUN.
	runLabel = "dev.idemq.test-run"

	// engineLimit bounds the question whether an engine is there at all.
	engineLimit = 3 * time.Second

	// containerLimit bounds pull, start and first answer, so that tests fall back
	// to another source in time; requiredContainerLimit holds where they cannot.
	containerLimit         = 20 * time.Second
	requiredContainerLimit = 2 * time.Minute

	// containerAnswerLimit bounds the wait for the first answer once the server
	// has said that it is ready.
	containerAnswerLimit = 5 * time.Second

	// containerStopTimeout is what a container gets before it is killed.
	containerStopTimeout = time.Second
)

// startRedisContainer starts a container and returns its URL and what removes it.
func startRedisContainer(set redisSettings) (string, func() error, error) {
	return startContainer(container{
		image: set.image, port: redisPort, run: set.run, required: set.requireDocker,
		command: append([]string{"redis-server", "--protected-mode", "no"}, redisFlags...),
		ready:   wait.ForLog(redisReadyLine), scheme: "redis://", ping: ping, answerLimit: containerAnswerLimit,
	})
}

// container is a server to start in one.
type container struct {
	image, port, run string
	required         bool // tests cannot fall back to another source
	command          []string
	env              map[string]string
	ready            wait.Strategy
	scheme, path     string // of the server's URL, around host and port
	ping             func(ctx context.Context, url string) error
	answerLimit      time.Duration // from the moment at which it is ready
}

// startContainer starts a container and returns its URL and what removes it.
func startContainer(set container) (_ string, _ func() error, err error) {
	if err := dockerAnswers(); err != nil {
		return "", nil, err
	}
	limit := containerLimit
	if set.required {
		limit = requiredContainerLimit
	}
	deadline, stopDeadline := context.WithTimeout(context.Background(), limit)
	defer stopDeadline()
	ctx, cancel := context.WithCancelCause(deadline)
	defer cancel(nil)

	// The library panics when it finds no engine.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("no container of %s: %v", set.image, r)
		}
	}()
	log.SetDefault(log.NewNoopLogger())
	req := testcontainers.GenericContainerRequest{
		ContainerRequest: testcontainers.ContainerRequest{
			Image:        set.image,
			ExposedPorts: []string{set.port},
			Cmd:          set.command,
			Env:          set.env,
			Labels:       map[string]string{runLabel: set.run},
			WaitingFor:   set.ready,
		},
		Started: true,
		Logger:  pullOnce{cancel: cancel},
	}
	ctr, err := testcontainers.GenericContainer(ctx, req)
	remove := func() error {
		return testcontainers.TerminateContainer(ctr, testcontainers.StopTimeout(containerStopTimeout))
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return "", nil, errors.Join(fmt.Errorf("no container of %s: %w", set.image, err), remove())
	}
	address, err := set.url(ctx, ctr)
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("container of %s: %w", set.image, err), remove())
	}
	return address, remove, nil
}

// url finds the address at which the server in ctr answers. Where the tests run
// in something that looks like a container the library takes the engine to be at
// the gateway, though it may be right here.
func (c container) url(ctx context.Context, ctr testcontainers.Container) (string, error) {
	host, err := ctr.Host(ctx)
	if err != nil {
		return "", err
	}
	port, err := ctr.MappedPort(ctx, c.port)
	if err != nil {
		return "", err
	}
	urls := []string{c.scheme + net.JoinHostPort(host, port.Port()) + c.path}
	if host != "localhost" {
		urls = append(urls, c.scheme+net.JoinHostPort("localhost", port.Port())+c.path)
	}
	return firstThat(ctx, c.answerLimit, c.ping, urls)
}

// pullOnce gives up on the first failed pull, which the library reports to its
// logger and nowhere else before it tries again until the time limit.
type pullOnce struct{ cancel context.CancelCauseFunc }

// Printf implements the library's Logger.
func (p pullOnce) Printf(format string, args ...any) {
	if strings.HasPrefix(format, "Failed to pull image") {
		p.cancel(errors.New(strings.TrimSuffix(fmt.Sprintf(format, args...), ", will retry")))
	}
}

// dockerAnswers asks the engine whether it is there, within a time limit that
// the library does not have.
func dockerAnswers() error {
	ctx, cancel := context.WithTimeout(context.Background(), engineLimit)
	defer cancel()
	if host := os.Getenv("DOCKER_HOST"); host != "" {
		u, err := url.Parse(host)
		switch {
		case err != nil:
			return fmt.Errorf("parse DOCKER_HOST: %w", err)
		case u.Scheme == "unix":
			if err := pingEngine(ctx, u.Path); err != nil {
				return fmt.Errorf("no Docker engine: %w", err)
			}
			return nil
		default:
			return nil // the library knows how to reach it
		}
	}
	var errs []error
	for _, socket := range dockerSockets() {
		if _, err := os.Stat(socket); err != nil {
			continue
		}
		err := pingEngine(ctx, socket)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return errors.New("no Docker engine")
	}
	return fmt.Errorf("no Docker engine: %w", errors.Join(errs...))
}

// dockerSockets lists where an engine listens, rootless ones included.
func dockerSockets() []string {
	sockets := []string{"/var/run/docker.sock"}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		sockets = append(sockets, filepath.Join(dir, "docker.sock"))
	}
	if home, err := os.UserHomeDir(); err == nil {
		sockets = append(sockets,
			filepath.Join(home, ".docker", "run", "docker.sock"),
			filepath.Join(home, ".docker", "desktop", "docker.sock"))
	}
	return sockets
}

func pingEngine(ctx context.Context, socket string) error {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/_ping", nil)
	if err != nil {
		return err
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	_, _ = io.Copy(io.Discard, res.Body)
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", socket, res.Status)
	}
	return nil
}
