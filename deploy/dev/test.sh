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
tests=

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

start_postgres -c fsync=off -c synchronous_commit=off -c full_page_writes=off
make --no-print-directory build
go vet ./...

set -m # a group of its own, which Ctrl-C reaches through the trap only
(
	set -o pipefail
	env "$mark" TMPDIR="$tmp" go test -race -count=1 -p 2 -timeout 40m -v "${@:-./...}" 2>&1 |
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
