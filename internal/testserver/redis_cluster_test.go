package testserver

import (
	"fmt"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRedisClusterSpreadsKeys(t *testing.T) {
	t.Parallel()
	c := RedisCluster(t)
	ctx := testContext(t)
	rdb := c.Client(t)
	for i := range 100 {
		require.NoError(t, rdb.Set(ctx, fmt.Sprintf("k%d", i), i, 0).Err())
	}
	total := int64(0)
	for _, m := range c.Masters() {
		n, err := m.Client(t).DBSize(ctx).Result()
		require.NoError(t, err)
		assert.Positive(t, n, "each master has some keys")
		total += n
	}
	assert.EqualValues(t, 100, total)
	moved := 0
	one := c.Masters()[0].Client(t)
	for i := range 100 {
		if redis.HasErrorPrefix(one.Get(ctx, fmt.Sprintf("k%d", i)).Err(), "MOVED") {
			moved++
		}
	}
	assert.Positive(t, moved, "a client that does not know Clusters is sent away")
}
