# For run.sh and two-servers.sh: starts servers, shows commands with what they print, and leaves nothing behind.
#
#   CART   the program; without it, it is built
set -eu

work=$(mktemp -d)
pids=

# stop ends what was started, and fails if something did not end well.
stop() {
  failed=0
  for pid in $pids; do kill "$pid" 2>/dev/null || true; done
  for pid in $pids; do wait "$pid" || failed=1; done
  pids=
  return $failed
}
trap 'stop || true; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ -z "${CART:-}" ]; then
  CART=$work/cart
  go build -o "$CART" .
fi

# await WHAT LOG TEST...: waits until the test holds, as long as what was started last runs.
await() {
  what=$1 log=$2
  shift 2
  until "$@"; do
    if ! kill -0 "$last" 2>/dev/null; then
      echo "$what has not started:" >&2
      cat "$log" >&2
      exit 1
    fi
    sleep 0.05
  done
}

# start NAME FLAG...: starts a server on a free port, and sets url.
start() {
  log=$work/$1.log
  shift
  "$CART" --addr 127.0.0.1:0 "$@" 2>"$log" &
  last=$!
  pids="$pids $last"
  await "the server" "$log" grep -q '^cart: listening at ' "$log"
  url=$(sed -n 's/^cart: listening at //p' "$log")
}

# show COMMAND: prints the command and runs it.
show() {
  printf '$ %s\n' "$1"
  eval "$1"
}
