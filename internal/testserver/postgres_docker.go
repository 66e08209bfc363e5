package testserver

import (
	"slices"

	"github.com/testcontainers/testcontainers-go/wait"
)

// DefaultPostgresImage is the image of Postgres containers unless
// IDEMQ_TEST_POSTGRES_IMAGE names another.
const DefaultPostgresImage = "postgres:18-alpine"

const postgresPort = "5432/tcp"

// startPostgresContainer starts a container and returns its URL and what removes it.
// The official image says that it is ready while it still prepares the data, and
// listens to the network only afterwards; so the first answer counts.
func startPostgresContainer(set postgresSettings) (string, func() error, error) {
	limit := containerLimit
	if set.requireDocker {
		limit = requiredContainerLimit
	}
	return startContainer(container{
		image: set.image, port: postgresPort, run: set.run, required: set.requireDocker,
		command: slices.Concat([]string{"postgres"}, postgresFlags),
		env:     map[string]string{"POSTGRES_HOST_AUTH_METHOD": "trust"},
		ready:   wait.ForLog(postgresReadyLine),
		scheme:  "postgres://postgres@", path: "/postgres?sslmode=disable", ping: pingPostgres, answerLimit: limit,
	})
}
