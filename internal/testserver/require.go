package testserver

import (
	"os"
	"strings"
	"testing"
)

// Names of the environment variables that the package comment explains.
const (
	envRedisURL    = "IDEMQ_TEST_REDIS_URL"
	envRedisImage  = "IDEMQ_TEST_REDIS_IMAGE"
	envRedisSource = "IDEMQ_TEST_REDIS_SOURCE"
	envRequire     = "IDEMQ_TEST_REQUIRE"
	envRun         = "IDEMQ_TEST_RUN"
)

// required reports whether IDEMQ_TEST_REQUIRE lists what.
func required(what string) bool {
	for item := range strings.SplitSeq(os.Getenv(envRequire), ",") {
		if strings.TrimSpace(item) == what {
			return true
		}
	}
	return false
}

// skip ends the test for the lack of a server: as skipped, remembered for the
// closing line of [Main], or as failed where requirement must not be missing.
func skip(t testing.TB, kind, requirement, reason string) {
	t.Helper()
	if required(requirement) {
		t.Fatalf("testserver: %s is required by %s: %s", kind, envRequire, reason)
	}
	current.skipped(kind, reason)
	t.Skipf("testserver: %s test skipped: %s", kind, reason)
}
