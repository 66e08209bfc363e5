#!/bin/sh
# Starts a Redis and two servers with a database each, shows a session of curl with them, and ends them all.
cd "$(dirname "$0")"
. ./start.sh

if ! command -v redis-server >/dev/null; then
  echo "two-servers.sh: there is no redis-server on PATH; install it, or see docker compose in the README" >&2
  exit 1
fi
socket=$work/redis.sock
redis-server --port 0 --unixsocket "$socket" --dir "$work" --save '' --maxmemory-policy noeviction >"$work/redis.log" 2>&1 &
last=$!
pids=$last
await "redis-server" "$work/redis.log" test -S "$socket"

start a --store "unix://$socket" --db "$work/a.db"
A=$url
start b --store "unix://$socket" --db "$work/b.db"
B=$url # A and B are used by what show runs

# The answer of A is lost, says the client, and its second try goes to B.
show "curl -s -w '%{http_code}\n' \$A/cart/items -H 'Idempotency-Key: k1' -d '{\"product\":\"p1\",\"quantity\":1}'"
show "curl -s -w '%{http_code}\n' \$B/cart/items -H 'Idempotency-Key: k1' -d '{\"product\":\"p1\",\"quantity\":1}'"
show "curl -s \$A/cart"
show "curl -s \$B/cart"

# Another operation is done where it comes to.
show "curl -s -w '%{http_code}\n' \$B/cart/items -H 'Idempotency-Key: k2' -d '{\"product\":\"p1\",\"quantity\":2}'"
show "curl -s \$B/cart"

# Two tries at once, one at each: one of the carts has it.
show "ITEM='{\"product\":\"p3\",\"quantity\":1}'"
show "curl -s -o /dev/null \$A/cart/items -H 'Idempotency-Key: k3' -d \"\$ITEM\" & curl -s -o /dev/null \$B/cart/items -H 'Idempotency-Key: k3' -d \"\$ITEM\"; wait \$!"
show "curl -s \$A/cart \$B/cart | grep -o '{\"product\":\"p3\"[^}]*}'"

stop
