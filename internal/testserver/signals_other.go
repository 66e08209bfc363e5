//go:build !unix

package testserver

import (
	"errors"
	"os"
)

func suspend(*os.Process) error {
	return errors.New("testserver: this system cannot suspend a process")
}

func resume(*os.Process) error { return nil }
