package idemtest_test

import (
	"fmt"
	"strings"
)

type payment struct{ ID int }

// printer stands in for the *testing.T of a real test, which an example does not have. It prints what go test would.
type printer struct{ failures []string }

func (p *printer) Helper() {}

func (p *printer) Errorf(format string, args ...any) {
	p.failures = append(p.failures, strings.ReplaceAll(fmt.Sprintf(format, args...), "\t", "  "))
}

func (p *printer) Run(name string, f func(*printer)) bool {
	sub := &printer{}
	f(sub)
	if len(sub.failures) == 0 {
		fmt.Println("ok  ", name)
		return true
	}
	fmt.Println("FAIL", name)
	fmt.Println(strings.Join(sub.failures, "\n"))
	return false
}
