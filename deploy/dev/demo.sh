#!/usr/bin/env bash
# Walks through the main job with a real Redis: installs redis-server when it is missing, builds, starts "groved dev" in
# a directory of its own, and does with the command line what a tenant does. On a terminal it goes on serving until
# Ctrl-C. It stops what it started, and removes the directory.
# shellcheck disable=SC2317 # functions that only traps call
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/dev/lib.sh
. "$here/lib.sh"
cd "$repo"

"$here/install.sh" demo
make --no-print-directory build

bold='' plain=''
if [ -t 1 ]; then
	bold=$'\e[1m' plain=$'\e[0m'
fi

begin_run gd
groved=

finish() {
	local status=$?
	trap - EXIT
	if [ "$status" != 0 ] && [ -s "$tmp/log" ]; then
		say "from groved's log:"
		{ grep -v "level=INFO" "$tmp/log" || true; } | tail -n 30
	fi
	if [ -n "$groved" ] && kill -TERM "$groved" 2>/dev/null; then
		wait "$groved" || true
	fi
	sweep || status=1
	rm -rf "$tmp"
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

# step prints a title, does the rest of its arguments, and says how long that took.
step() {
	local title=$1 begin=${EPOCHREALTIME/[.,]/} took
	shift
	printf '\n%s== %s%s\n' "$bold" "$title" "$plain"
	"$@"
	took=$((${EPOCHREALTIME/[.,]/} - begin))
	printf '   %s%d.%02d s%s\n' "$bold" $((took / 1000000)) $((took % 1000000 / 10000)) "$plain"
}

# run shows a command as a person would type it, and runs it.
run() {
	printf '   $ %s\n' "$*"
	"$@"
}

grove() { "$repo/bin/grove" "$@"; }

start() {
	local port tries
	port=$(free_port 8779)
	env "$mark" bin/groved dev --listen "127.0.0.1:$port" --data "$tmp/data" >"$tmp/ready" 2>"$tmp/log" &
	groved=$!
	for ((tries = 0; tries < 300; tries++)); do
		if grep -q '^grove ready ' "$tmp/ready"; then
			GROVE_ENDPOINT=$(sed -n 's/^grove ready //p' "$tmp/ready")
			export GROVE_ENDPOINT
			printf '   %s\n' "$(cat "$tmp/ready")"
			return
		fi
		kill -0 "$groved" 2>/dev/null || die "groved ended before it was ready"
		sleep 0.1
	done
	die "groved was not ready within 30 s"
}

create() {
	run grove instance create cache1 --flavor 1 --size 1 --datastore redis --wait -c name -c status -c addresses -c uri
	address=$(grove instance show cache1 -f value -c addresses | grep -oE '[0-9]+(\.[0-9]+){3}' | head -n 1)
	# In the environment, where no list of processes shows it.
	REDISCLI_AUTH=$(grove instance credentials cache1 -f value -c password)
	export REDISCLI_AUTH
}

redis() { run redis-cli -h "$address" "$@"; }

# expect runs a command, shows what it prints, and fails unless that is what was expected.
expect() {
	local want=$1 got
	shift
	printf '   $ %s\n' "$*"
	got=$("$@" | tr -d '\r')
	[ -z "$got" ] || printf '   %s\n' "$got"
	[ "$got" = "$want" ] || die "expected \"$want\""
}

use() {
	expect OK redis-cli -h "$address" SET greeting "hello from Grove"
	expect "hello from Grove" redis-cli -h "$address" GET greeting
}

# memory prints a field of INFO memory.
memory() { redis-cli -h "$address" INFO memory | tr -d '\r' | sed -n "s/^$1://p"; }

configure() {
	run grove configuration create lru --datastore redis --set maxmemory-policy=allkeys-lru -c name -c values
	run grove configuration attach cache1 lru --wait
	printf '   maxmemory-policy is now %s\n' "$(memory maxmemory_policy)"
	[ "$(memory maxmemory_policy)" = allkeys-lru ] || die "the value did not take effect"
}

resize_volume() {
	run grove instance resize cache1 --volume 2 --wait
	run grove instance show cache1 -f value -c volume
}

resize_flavor() {
	local before
	before=$(memory maxmemory_human)
	run grove instance resize cache1 --flavor 2 --wait
	printf '   maxmemory went from %s to %s\n' "$before" "$(memory maxmemory_human)"
	[ "$(memory maxmemory_human)" != "$before" ] || die "the flavor did not take effect"
}

restart() {
	run grove instance restart cache1 --wait
	expect "hello from Grove" redis-cli -h "$address" GET greeting
}

delete() {
	run grove instance delete cache1 --yes --wait
	run grove configuration delete lru --yes
	expect "" grove instance list -f value
}

create_pair() {
	run grove instance create shop --flavor 1 --size 1 --high-availability async --wait -c name -c status -c addresses
	address=$(grove instance show shop -f value -c addresses | grep -oE '[0-9]+(\.[0-9]+){3}' | head -n 1)
	REDISCLI_AUTH=$(grove instance credentials shop -f value -c password)
	expect OK redis-cli -h "$address" SET order:1 paid
	expect 1 redis-cli -h "$address" WAIT 1 5000
}

# kill_primary kills the server that answers at the address, and measures until the address takes a write again.
kill_primary() {
	local pid begin took tries
	pid=$(redis-cli -h "$address" INFO server | tr -d '\r' | sed -n 's/^process_id://p')
	begin=${EPOCHREALTIME/[.,]/}
	run kill -9 "$pid"
	for ((tries = 0; tries < 600; tries++)); do
		if [ "$(timeout 1 redis-cli -h "$address" SET order:2 paid 2>/dev/null)" = OK ]; then
			took=$((${EPOCHREALTIME/[.,]/} - begin))
			printf '   %sthe same address takes writes again after %d ms%s\n' "$bold" $((took / 1000)) "$plain"
			expect paid redis-cli -h "$address" GET order:1
			return
		fi
		sleep 0.05
	done
	die "the address did not answer within 30 s"
}

create_cluster() {
	run grove cluster create catalogue --masters 3 --flavor 1 --size 1 --wait -c name -c task_name -c ip
	address=$(grove cluster show catalogue -f value -c ip | grep -oE '[0-9]+(\.[0-9]+){3}' | head -n 1)
	REDISCLI_AUTH=$(grove cluster credentials catalogue -f value -c password)
}

# write writes keys until the file $tmp/writing is gone.
write() {
	local i=0
	while [ -e "$tmp/writing" ]; do
		for ((n = 0; n < 50; n++)); do
			i=$((i + 1))
			echo "SET item:$i $i"
		done
		sleep 0.05
	done | redis-cli -c -h "$address" >"$tmp/written"
}

grow_cluster() {
	local writer written lost
	touch "$tmp/writing"
	write &
	writer=$!
	run grove cluster grow catalogue --masters 1 --flavor 1 --size 1 --wait
	rm "$tmp/writing"
	wait "$writer"
	written=$(grep -c '^OK' "$tmp/written")
	if grep -qE 'ERR|CLUSTERDOWN|MOVED|LOADING|refused' "$tmp/written"; then
		die "a write failed: $(grep -m 1 -vE '^(OK|->)' "$tmp/written")"
	fi
	for ((i = 1; i <= written; i++)); do echo "GET item:$i"; done | redis-cli -c -h "$address" | tr -d '\r"' | grep -v '^->' >"$tmp/read"
	lost=$(seq "$written" | diff - "$tmp/read" | grep -c '^<' || true)
	printf '   %d keys were written meanwhile, %d are lost\n' "$written" "$lost"
	[ "$lost" = 0 ] || die "keys are lost"
	run grove cluster instances catalogue -c name -c role -c slots
}

leave() {
	run grove instance delete shop --yes --wait
	run grove cluster delete catalogue --yes --wait
}

step "Start the control plane: groved dev" start
step "What sizes are there?" run grove flavor list
step "Create a Redis instance and wait until it serves" create
step "Use it, at its own address with its own password" use
step "Change a configuration value; it takes effect live" configure
step "Resize the volume" resize_volume
step "Resize the flavor" resize_flavor
step "Restart; the key is still there" restart
step "List" run grove instance list
step "Delete" delete
step "Create a hot standby: one address, two servers" create_pair
step "Kill the primary" kill_primary
step "Create a cluster of three masters" create_cluster
step "Grow it while it is written to" grow_cluster
step "Delete both" leave
printf '\nAll of it in %d s.\n' "$SECONDS"

if [ -t 1 ]; then
	printf '\nGrove goes on serving at %s\n' "$GROVE_ENDPOINT"
	printf '   in another terminal:  '
	[ "$GROVE_ENDPOINT" = http://127.0.0.1:8779 ] || printf 'export GROVE_ENDPOINT=%s; ' "$GROVE_ENDPOINT"
	printf '%s/bin/grove instance list\n' "$repo"
	printf '   log:                  %s\n' "$tmp/log"
	printf '   stop, and remove all: Ctrl-C\n'
	trap 'exit 0' INT TERM
	wait "$groved"
fi
