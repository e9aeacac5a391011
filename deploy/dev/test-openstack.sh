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

[ "$(id -u)" = 0 ] || exec sudo --preserve-env=GROVE_DEVCLOUD,GROVE_SOAK,PATH "$0" "$@"
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

# as runs a command with the variables of one of the cloud's accounts: as openrc-dbaas COMMAND...
as() (
	# shellcheck source=/dev/null
	. "$cloud/$1"
	shift
	"$@"
)

# tested runs go test, and fails when nothing was tested or a test was skipped.
tested() {
	env "$mark" TMPDIR="$tmp" go test -count=1 -p 1 -timeout 30m -v "$@" 2>&1 | tee "$tmp/output" |
		grep --line-buffered -vE '^=== |^ok |^PASS$' || true
	! grep -qE '^ *--- (FAIL|SKIP)|^FAIL|^panic:|no tests to run' "$tmp/output" && grep -q '^ok ' "$tmp/output"
}

status=0
network=$(as openrc openstack network show private -f value -c id)
GROVE_TEST_NETWORK=$network GROVE_TEST_IMAGE_TAG=redis as openrc-dbaas tested "$@" ./internal/cloud/openstack || status=1
GROVE_DEVCLOUD=$cloud tested -run 'OpenStack' "$@" ./internal/e2e || status=1

sql() { mariadb --no-defaults --socket="$cloud/run/mariadb/mysqld.sock" -uroot -N -e "$1"; }
printf 'The real services made %s servers (Nova), %s volumes (Cinder) and %s ports (Neutron).\n' \
	"$(sql 'select count(*) from nova.instances')" "$(sql 'select count(*) from cinder.volumes')" \
	"$(grep -cE '"POST /v2.0/ports[^"]*" status: 201' "$cloud/log/neutron-server.log")"
exit "$status"
