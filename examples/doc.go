// Package examples holds the test that builds and runs every program below it and compares what it prints with its
// expected.txt. It has no code of its own.
package examples
