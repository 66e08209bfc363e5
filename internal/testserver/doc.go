// Package testserver gives tests the real servers that idemq runs against: NATS
// with JetStream, embedded in the test process, and Redis and Postgres from
// wherever they can be had. It is for tests only; no production package may import it.
//
// Every package whose tests use it hands its tests over to [Main], which stops
// what the tests shared, looks for leaked goroutines if asked, and says in one
// line for each kind of server which tests were skipped for the lack of one:
//
//	func TestMain(m *testing.M) { testserver.Main(m, testserver.VerifyLeaks()) }
//
// # Where Redis comes from
//
// [Redis] looks in this order and takes the first that works:
//
//  1. the server named by IDEMQ_TEST_REDIS_URL;
//  2. a container of the image IDEMQ_TEST_REDIS_IMAGE, if a Docker engine answers
//     and has or can quickly pull the image;
//  3. a redis-server binary on PATH, on a free port of the loopback interface.
//
// With none of them the test is skipped. Servers that are shared are never
// emptied: a test must use keys that no other test uses.
//
// [Postgres] looks in the same order: IDEMQ_TEST_POSTGRES_URL, a container of
// IDEMQ_TEST_POSTGRES_IMAGE, the programs initdb and postgres on PATH or where
// Debian installs them (run as the user postgres or nobody if the tests are root's).
// Each test gets databases of its own.
//
// Tests of outages start servers of their own from the binary on PATH:
// [PrivateRedis], [PrivateRedisTLS], [RedisCluster] with three masters, and
// [RedisSentinel] with a master, replicas and three sentinels, and [PrivatePostgres].
//
// # Environment
//
//   - IDEMQ_TEST_REDIS_URL: redis:// URL of a server to use. If it is set and the
//     server does not answer, tests fail.
//   - IDEMQ_TEST_REDIS_IMAGE: image for containers. Defaults to [DefaultRedisImage].
//   - IDEMQ_TEST_REDIS_SOURCE: "url", "docker" or "binary" allows only that source
//     and turns its absence into a failure. Defaults to trying all.
//   - IDEMQ_TEST_POSTGRES_URL, IDEMQ_TEST_POSTGRES_IMAGE, IDEMQ_TEST_POSTGRES_SOURCE:
//     the same for Postgres. The URL's user must be allowed to create databases. The
//     image defaults to [DefaultPostgresImage].
//   - IDEMQ_TEST_REQUIRE: comma-separated list of what must not be missing:
//     "redis" and "postgres" turn skips for the lack of them into failures, "docker"
//     refuses to fall back to a binary when a container cannot be started.
//   - IDEMQ_TEST_RUN: value of the label dev.idemq.test-run on every container, by
//     which whoever started the run finds what a killed test process left behind.
package testserver
