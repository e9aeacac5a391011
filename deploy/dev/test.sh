#!/usr/bin/env bash
# Runs every test with the race detector, against real servers: installs what is missing, starts a private PostgreSQL
# on a free loopback port (other servers are started by the tests that need them), and stops it all again. It fails
# when a test fails, when a test was skipped for want of something that it installs, and when the run leaves a process,
# a mount or a loop device behind.
#
#   deploy/dev/test.sh [package...]      (default ./...)
# shellcheck disable=SC2317 # functions that only traps call
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/dev/lib.sh
. "$here/lib.sh"
cd "$repo"

"$here/install.sh" test
# shellcheck source=deploy/dev/lib.sh
. "$here/lib.sh" # now valkey is in the path

begin_run gt # a short name, for sockets are made below it
chmod 711 "$tmp"
postgres=
tests=

stop_postgres() {
	[ -n "$postgres" ] || return 0
	kill -INT "$postgres" 2>/dev/null || true
	wait "$postgres" 2>/dev/null || true
	postgres=
}

interrupted() {
	trap '' INT TERM
	if [ -n "$tests" ]; then
		kill -INT -- "-$tests" 2>/dev/null || true
		wait "$tests" 2>/dev/null || true
	fi
	exit 130
}

finish() {
	local status=$?
	trap - EXIT
	stop_postgres
	sweep || status=1
	rm -rf "$tmp"
	exit "$status"
}
trap finish EXIT
trap interrupted INT TERM

# start_postgres runs a PostgreSQL that is reachable on loopback with a password of its own, as a user of its own when
# this is root (PostgreSQL refuses root).
start_postgres() {
	local bin port tries as=() dir=$tmp/pg password
	bin=$(postgres_bin)
	mkdir "$dir"
	password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
	(umask 077 && echo "$password" >"$dir/password")
	if [ "$(id -u)" = 0 ]; then
		chown -R postgres: "$dir"
		as=(setpriv --reuid=postgres --regid=postgres --init-groups)
	fi
	(cd "$dir" && "${as[@]}" "$bin/initdb" -D data -U grove -A scram-sha-256 --pwfile=password \
		--no-locale -E UTF8 --no-sync --no-instructions >initdb.log 2>&1) ||
		die "initdb failed: $(tail -n 5 "$dir/initdb.log")"
	for ((tries = 0; tries < 20; tries++)); do
		# shellcheck disable=SC2119
		port=$(free_port)
		(cd "$dir" && exec "${as[@]}" env "$mark" "$bin/postgres" -D data -p "$port" -c listen_addresses=127.0.0.1 \
			-c unix_socket_directories="$dir" -c fsync=off -c synchronous_commit=off -c full_page_writes=off \
			-c max_connections=200 -c shared_buffers=64MB >postgres.log 2>&1) &
		postgres=$!
		local waited
		for ((waited = 0; waited < 300; waited++)); do
			if "$bin/pg_isready" -q -h 127.0.0.1 -p "$port"; then
				export GROVE_TEST_POSTGRES="postgres://grove:$password@127.0.0.1:$port/postgres?sslmode=disable"
				return 0
			fi
			kill -0 "$postgres" 2>/dev/null || break # the port was taken meanwhile
			sleep 0.1
		done
		stop_postgres
	done
	die "PostgreSQL did not start: $(tail -n 5 "$dir/postgres.log")"
}

start_postgres
make --no-print-directory build
go vet ./...

mkdir "$tmp/t"
chmod 711 "$tmp/t"
set -m # a group of its own, which Ctrl-C reaches through the trap only
(
	set -o pipefail
	env "$mark" TMPDIR="$tmp/t" go test -race -count=1 -p 2 -timeout 20m -v "${@:-./...}" 2>&1 |
		GROVE_SKIPS=$tmp/skips awk -f "$here/report.awk"
) &
tests=$!
set +m
status=0
wait "$tests" || status=$?
tests=
if [ -s "$tmp/skips" ]; then
	say "skipped for want of what was installed for them:"
	cat "$tmp/skips"
	status=1
fi
exit "$status"
