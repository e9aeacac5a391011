#!/usr/bin/env bash
# Runs every test that needs an OpenStack, against a real one: installs what is missing, starts the services of
# deploy/devcloud and a private PostgreSQL on free loopback ports, and stops it all again. It fails when the cloud does not
# start, when a test fails or was skipped, and when the run leaves something behind. At the end it tells how many servers,
# volumes and ports the services made.
#
#   deploy/dev/test-openstack.sh [option of go test...]
#
# GROVE_DEVCLOUD names the directory of a cloud that runs already, and that is left running.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/dev/lib.sh
. "$here/lib.sh"
cd "$repo"

[ "$(id -u)" = 0 ] || exec sudo --preserve-env=GROVE_DEVCLOUD,GROVE_SOAK,GROVE_CRASH,PATH "$0" "$@"
"$here/install.sh" test
"$here/install.sh" openstack
# shellcheck source=deploy/dev/lib.sh
. "$here/lib.sh" # now valkey is in the path

begin_run go
started=

finish() {
	local status=$?
	trap - EXIT INT TERM
	stop_postgres
	if [ -n "$started" ]; then "$repo/deploy/devcloud/down.sh" "$cloud" || status=1; fi
	sweep || status=1
	rm -rf "$tmp"
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

cloud=${GROVE_DEVCLOUD:-}
if [ -z "$cloud" ]; then
	cloud=$tmp/cloud started=yes
	"$repo/deploy/devcloud/up.sh" "$cloud"
fi
start_postgres -c fsync=off -c synchronous_commit=off -c full_page_writes=off

network=$(
	# shellcheck source=/dev/null
	. "$cloud/openrc"
	openstack network show private -f value -c id
)
# shellcheck source=/dev/null
. "$cloud/openrc-dbaas"
status=0
env "$mark" TMPDIR="$tmp" GROVE_DEVCLOUD="$cloud" GROVE_TEST_NETWORK="$network" GROVE_TEST_IMAGE_TAG=redis \
	go test -count=1 -p 2 -timeout 30m -v -run 'OpenStack|^TestConformance$' "$@" ./internal/cloud/openstack ./internal/e2e 2>&1 |
	tee "$tmp/output" | grep --line-buffered -vE '^=== |^PASS$' || status=1
if [ $# = 0 ] && grep -q 'no tests to run' "$tmp/output" || ! grep -qE '^(--- PASS|Benchmark.*[0-9])' "$tmp/output"; then
	say "there were no tests to run"
	status=1
fi
if grep -B1 -E '^ *--- SKIP' "$tmp/output" | grep -vE '^--$|--- SKIP|a long run'; then
	say "a test was skipped that a cloud is started for"
	status=1
fi

sql() { mariadb --no-defaults --socket="$cloud/run/mariadb/mysqld.sock" -uroot -N -e "$1"; }
printf 'The real services made %s servers (Nova), %s volumes (Cinder) and %s ports (Neutron).\n' \
	"$(sql 'select count(*) from nova.instances')" "$(sql 'select count(*) from cinder.volumes')" \
	"$(grep -cE '"POST /v2.0/ports[^"]*" status: 201' "$cloud/log/neutron-server.log")"
exit "$status"
