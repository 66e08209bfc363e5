// Package importguard holds the test that keeps dependencies pointing inward:
// cmd and examples on adapters, adapters on consumer and publisher, these on
// dedup, and dedup on the standard library alone. It has no code of its own.
package importguard
