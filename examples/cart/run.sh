#!/bin/sh
# Starts one server, shows a session of curl with it, and ends it.
cd "$(dirname "$0")"
. ./start.sh

start server
A=$url # used by what show runs

# The same key again changes nothing.
show "curl -s -w '%{http_code}\n' \$A/cart/items -H 'Idempotency-Key: k1' -d '{\"product\":\"p1\",\"quantity\":1}'"
show "curl -s -w '%{http_code}\n' \$A/cart/items -H 'Idempotency-Key: k1' -d '{\"product\":\"p1\",\"quantity\":1}'"

# A new key raises the counter, and the first answer stays what it was.
show "curl -s -w '%{http_code}\n' \$A/cart/items -H 'Idempotency-Key: k2' -d '{\"product\":\"p1\",\"quantity\":2}'"
show "curl -s \$A/cart/items -H 'Idempotency-Key: k1' -d '{\"product\":\"p1\",\"quantity\":1}'"
show "curl -s \$A/cart"

# What is refused: another item under a known key, no key, a bad item.
show "curl -s -o /dev/null -w '%{http_code}\n' \$A/cart/items -H 'Idempotency-Key: k1' -d '{\"product\":\"p9\",\"quantity\":1}'"
show "curl -s -o /dev/null -w '%{http_code}\n' \$A/cart/items -d '{\"product\":\"p1\",\"quantity\":1}'"
show "curl -s \$A/cart/items -H 'Idempotency-Key: k3' -d '{\"product\":\"p1\",\"quantity\":-1}'"

stop
