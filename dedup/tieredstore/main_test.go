package tieredstore_test

import (
	"testing"

	"github.com/idemq/idemq/internal/testserver"
)

func TestMain(m *testing.M) { testserver.Main(m, testserver.VerifyLeaks(), testserver.MostlyWaits()) }
