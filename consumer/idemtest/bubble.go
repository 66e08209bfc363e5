package idemtest

import (
	"fmt"
	"runtime/debug"
	"testing"
	"testing/synctest"
)

// bubble runs f in virtual time and returns the problems that it found.
func bubble(t any, f func() []string) (problems []string) {
	// A stand-in for a test has no *testing.T, and synctest wants one only to have a parent.
	parent, ok := t.(*testing.T)
	if !ok {
		parent = new(testing.T)
	}
	defer func() {
		// What the bubble cannot get rid of is reported by a panic on this side of it.
		if v := recover(); v != nil {
			problems = append(problems, fmt.Sprintf("goroutines of the handler are left, blocked for ever: %v", v))
		}
	}()
	synctest.Test(parent, func(*testing.T) {
		defer func() {
			if v := recover(); v != nil {
				problems = append(problems, fmt.Sprintf("the function that makes the handler panicked: %v\n%s", v, debug.Stack()))
			}
		}()
		problems = f()
	})
	return problems
}
