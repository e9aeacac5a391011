#!/usr/bin/env bash
# Measures what docs/performance.md records, and prints it with the machine that it was measured on. Servers are
# private, on loopback, and stopped at the end. PostgreSQL keeps its promise of durability (fsync is on).
#
#   BENCH=regexp BENCHTIME=2s deploy/dev/bench.sh [package...]      (default: all of them)
# shellcheck disable=SC2317 # functions that only traps call
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/dev/lib.sh
. "$here/lib.sh"
cd "$repo"

"$here/install.sh" test
make --no-print-directory build
begin_run gb
groved=

finish() {
	local status=$?
	trap - EXIT
	if [ -n "$groved" ] && kill -TERM "$groved" 2>/dev/null; then
		wait "$groved" || true
	fi
	stop_postgres
	sweep || status=1
	rm -rf "$tmp"
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

machine() {
	say "commit:     $(git describe --always --dirty 2>/dev/null || echo unknown)"
	say "go:         $(go version | cut -d' ' -f3-)"
	say "processor:  $(nproc) x $(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)"
	say "memory:     $(awk '/^MemTotal/ { printf "%.1f GiB", $2 / 1048576 }' /proc/meminfo)"
	say "kernel:     $(uname -r)"
	say "postgresql: $("$(postgres_bin)/postgres" --version | cut -d' ' -f3-)"
	say "redis:      $(redis-server --version | grep -o 'v=[^ ]*')"
}

resident() { awk '/^VmRSS/ { printf "%.1f MiB", $2 / 1024 }' "/proc/$1/status"; }

# bare_redis prints how long a redis-server alone takes from its start until PONG.
bare_redis() {
	local port begin pid
	# shellcheck disable=SC2119
	port=$(free_port)
	mkdir -p "$tmp/bare"
	begin=${EPOCHREALTIME/[.,]/}
	env "$mark" redis-server --bind 127.0.0.1 --port "$port" --dir "$tmp/bare" --appendonly yes --logfile "$tmp/bare/log" &
	pid=$!
	until [ "$(redis-cli -p "$port" PING 2>/dev/null)" = PONG ]; do sleep 0.001; done
	echo $((${EPOCHREALTIME/[.,]/} - begin))
	kill -TERM "$pid"
	wait "$pid" 2>/dev/null || true
	rm -rf "$tmp/bare"
}

# active prints how long a create takes from POST until ACTIVE, as the command line sees it, and deletes the instance.
active() {
	local begin
	begin=${EPOCHREALTIME/[.,]/}
	bin/grove instance create bench --flavor 1 --size 1 --datastore redis --wait -q >/dev/null
	echo $((${EPOCHREALTIME/[.,]/} - begin))
	bin/grove instance delete bench --yes --wait -q >/dev/null
}

median() { sort -n | awk '{ v[NR] = $1 } END { printf "%.0f ms", v[int((NR + 1) / 2)] / 1000 }'; }

house() {
	local tries i
	env "$mark" bin/groved dev --listen 127.0.0.1:0 --data "$tmp/data" >"$tmp/ready" 2>"$tmp/log" &
	groved=$!
	for ((tries = 0; tries < 300; tries++)); do
		grep -q '^grove ready ' "$tmp/ready" && break
		sleep 0.1
	done
	GROVE_ENDPOINT=$(sed -n 's/^grove ready //p' "$tmp/ready")
	[ -n "$GROVE_ENDPOINT" ] || die "groved did not start: $(tail -n 5 "$tmp/log")"
	export GROVE_ENDPOINT
	say "groved dev, resident with no instance:              $(resident "$groved")"
	say "redis-server alone, start to PONG (median of 11):   $(for ((i = 0; i < 11; i++)); do bare_redis; done | median)"
	say "grove create --wait, POST to ACTIVE (median of 11): $(for ((i = 0; i < 11; i++)); do active; done | median)"
	say "groved dev, resident afterwards:                    $(resident "$groved")"
	kill -TERM "$groved"
	wait "$groved" || true
	groved=
}

benchmarks() {
	# shellcheck disable=SC2119
	start_postgres
	env "$mark" TMPDIR="$tmp" go test -run '^$' -bench "${BENCH:-.}" -benchtime "${BENCHTIME:-2s}" -timeout 60m -p 1 "${@:-./...}" |
		grep -v 'no test files'
}

machine
say ""
house
say ""
benchmarks "$@"
