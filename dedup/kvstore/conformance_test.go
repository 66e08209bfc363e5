package kvstore

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/idemq/idemq/dedup"
	"github.com/idemq/idemq/dedup/storetest"
)

func TestConformance(t *testing.T) {
	js := connect(t)
	var stores sync.Map // of each subtest
	storetest.Run(t, storetest.Harness{
		New: func(t *testing.T) dedup.Store {
			s := open(t, js)
			stores.Store(t, s)
			return s
		},
		Corrupt: func(t *testing.T, k dedup.Key, raw []byte) {
			s, _ := stores.Load(t)
			kv, err := js.KeyValue(testContext(t), s.(*Store).bucket)
			require.NoError(t, err)
			_, err = kv.Put(testContext(t), keyToken(k), raw)
			require.NoError(t, err)
		},
		Lease: 300 * time.Millisecond,
	})
}
