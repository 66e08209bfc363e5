#!/usr/bin/env bash
# Builds idemq-local/redis, idemq-local/postgres, idemq-local/nats and
# idemq-local/cart without an image registry: FROM scratch, Redis and Postgres out
# of the distribution's packages, NATS out of its Go module at the version in
# go.mod. These stand in for the official images: the same commands, the same
# ports, /data for what is kept, and the tools that the health checks of
# docker-compose.yml call. The cart is what docker/cart.Dockerfile makes of
# examples/cart.
set -euo pipefail
cd "$(dirname "$0")/.."

# need FILE PACKAGE: the images are made of what is installed here.
need() {
  if ! [ -e "$1" ]; then
    echo "images.sh: $1 is missing; install the package $2" >&2
    exit 1
  fi
}
redis_server=$(command -v redis-server) || need /usr/bin/redis-server redis-server
redis_cli=$(command -v redis-cli) || need /usr/bin/redis-cli redis-tools
postgres_bin=$(find /usr/lib/postgresql -mindepth 2 -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -n 1)
[ -n "$postgres_bin" ] || need /usr/lib/postgresql/bin/postgres postgresql
busybox=/bin/busybox
need "$busybox" busybox-static
if ldd "$busybox" >/dev/null 2>&1; then
  echo "images.sh: $busybox is not static; install the package busybox-static" >&2
  exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# skeleton IMAGE: the shell, wget, and the entry point that the official images
# share: options alone go to the server.
skeleton() {
  local root=$work/$1 server=$2
  mkdir -p "$root/bin" "$root/usr/local/bin" "$root/data" "$root/tmp" "$root/etc"
  cp "$busybox" "$root/bin/busybox"
  ln -s busybox "$root/bin/sh"
  ln -s busybox "$root/bin/wget"
  cat >"$root/usr/local/bin/docker-entrypoint.sh" <<END
#!/bin/sh
case "\${1:-}" in -*) set -- $server "\$@" ;; esac
exec "\$@"
END
  chmod 0755 "$root/usr/local/bin/docker-entrypoint.sh"
}

# Lines for an image that does not run as root.
declare -A user=([postgres]='COPY --chown=70:70 postgres-own/ /
USER 70:70')

# image NAME PORT VERSION COMMAND...
image() {
  local name=$1 port=$2 version=$3
  shift 3
  local command
  command=$(printf '"%s",' "$@")
  cat >"$work/$name.Dockerfile" <<END
FROM scratch
COPY $name/ /
${user[$name]:-}
ENV PATH=/usr/local/bin:/usr/bin:/bin
WORKDIR /data
VOLUME /data
EXPOSE $port
ENTRYPOINT ["docker-entrypoint.sh"]
CMD [${command%,}]
END
  docker build -q -t "idemq-local/$name:latest" -t "idemq-local/$name:$version" \
    -f "$work/$name.Dockerfile" "$work" >/dev/null
  echo "built idemq-local/$name:$version"
}

# libraries IMAGE FILE...: what the programs and modules are linked with.
libraries() {
  local root=$work/$1
  shift
  ldd "$@" 2>/dev/null | grep -v ':$' | grep -o '/[^ )]*\.so[^ )]*' | sort -u | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
  done
}

skeleton redis redis-server
cp -L "$redis_server" "$work/redis/usr/local/bin/redis-server"
cp -L "$redis_cli" "$work/redis/usr/local/bin/redis-cli"
libraries redis "$redis_server" "$redis_cli"
redis_version=$("$redis_server" --version | grep -o 'v=[0-9.]*' | cut -d= -f2)
image redis 6379 "$redis_version" redis-server

# Postgres finds its files relative to its programs, and refuses to run as root.
skeleton postgres postgres
mkdir "$work/postgres-own"
mv "$work/postgres/data" "$work/postgres/tmp" "$work/postgres-own/"
postgres_home=${postgres_bin%/bin}
postgres_share=$("$postgres_bin/pg_config" --sharedir 2>/dev/null || echo "/usr/share/postgresql/$(basename "$postgres_home")")
mkdir -p "$work/postgres$postgres_bin" "$work/postgres$postgres_home/lib" "$work/postgres$(dirname "$postgres_share")" "$work/postgres/run"
cp -L "$postgres_bin/postgres" "$postgres_bin/initdb" "$work/postgres$postgres_bin/"
cp -L "$postgres_home/lib/plpgsql.so" "$postgres_home/lib/dict_snowball.so" "$work/postgres$postgres_home/lib/"
cp -RL "$postgres_share" "$work/postgres$postgres_share"
ln -s "$postgres_bin/postgres" "$postgres_bin/initdb" "$work/postgres/usr/local/bin/"
libraries postgres "$postgres_bin/postgres" "$postgres_bin/initdb" "$postgres_home/lib/plpgsql.so" "$postgres_home/lib/dict_snowball.so"
echo 'postgres:x:70:70::/data:/bin/sh' >"$work/postgres/etc/passwd"
echo 'postgres:x:70:' >"$work/postgres/etc/group"
cat >"$work/postgres/usr/local/bin/docker-entrypoint.sh" <<'END'
#!/bin/sh
# Makes the data on the first start; everybody who reaches the port may come in.
set -e
case "${1:-}" in -*) set -- postgres "$@" ;; esac
if [ "$1" = postgres ] && ! [ -e /data/db/PG_VERSION ]; then
  initdb --pgdata /data/db --username postgres --auth trust --encoding UTF8 --locale C --no-sync >/tmp/initdb.log 2>&1 || {
    busybox cat /tmp/initdb.log
    exit 1
  }
  echo 'host all all all trust' >>/data/db/pg_hba.conf
  echo "listen_addresses = '*'" >>/data/db/postgresql.conf
  echo "unix_socket_directories = '/tmp'" >>/data/db/postgresql.conf
fi
export PGDATA=/data/db
exec "$@"
END
postgres_version=$("$postgres_bin/postgres" --version | grep -o '[0-9][0-9.]*' | head -n 1)
image postgres 5432 "$postgres_version" postgres

skeleton nats nats-server
CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$work/nats/usr/local/bin/nats-server" github.com/nats-io/nats-server/v2
nats_version=$(go list -m -f '{{.Version}}' github.com/nats-io/nats-server/v2)
image nats 4222 "${nats_version#v}" nats-server -js -sd /data

mkdir -p "$work/cart/data"
CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$work/cart/cart" ./examples/cart
# The second half of the Dockerfile, with what was built here.
sed -n '/^FROM scratch/,$p' docker/cart.Dockerfile | sed 's|^COPY --from=build /out/ /|COPY cart/ /|' >"$work/cart.Dockerfile"
docker build -q -t idemq-local/cart:latest -f "$work/cart.Dockerfile" "$work" >/dev/null
echo "built idemq-local/cart"
