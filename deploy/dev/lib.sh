# What the scripts of this directory share. To be sourced by bash.
# shellcheck shell=bash

# An ordinary user's path lacks the directories of mkfs and rabbitmq-server.
PATH=$PATH:/usr/sbin:/sbin

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# Where valkey-server is unpacked.
if [ -n "${XDG_CACHE_HOME:-${HOME:-}}" ]; then
	valkey_dir=${XDG_CACHE_HOME:-$HOME/.cache}/grove/valkey
else
	valkey_dir=$repo/.cache/valkey
fi
if [ -x "$valkey_dir/bin/valkey-server" ]; then
	PATH=$valkey_dir/bin:$PATH
fi
export PATH

say() { printf '%s\n' "$*"; }

die() {
	printf 'grove: %s\n' "$*" >&2
	exit 1
}

# postgres_bin prints the directory of the newest PostgreSQL server's programs.
postgres_bin() {
	local dir
	for dir in $(find /usr/lib/postgresql -mindepth 2 -maxdepth 2 -name bin 2>/dev/null | sort -rV); do
		if [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ]; then
			echo "$dir"
			return 0
		fi
	done
	command -v initdb >/dev/null && dirname "$(command -v initdb)"
}

rabbitmq_bin() {
	command -v rabbitmq-server || ls /usr/lib/rabbitmq/bin/rabbitmq-server
}

# A run is what has $tmp in its arguments or the mark in its environment; so it can be told from all else.
begin_run() {
	tmp=$(mktemp -d "${TMPDIR:-/tmp}/$1.XXXXXX")
	chmod 711 "$tmp" # PostgreSQL runs as a user of its own
	mark=GROVE_RUN=$tmp
	postgres=
}

# left_processes prints the ids of processes that the run started and that still live. A database's server rewrites its
# arguments and may be without the environment: it works in a directory of the run.
left_processes() {
	local cwd
	{
		env -u GROVE_RUN grep -lszxF "$mark" /proc/[0-9]*/environ || true
		env -u GROVE_RUN grep -lsF -f - /proc/[0-9]*/cmdline <<<"$tmp" || true
		for cwd in /proc/[0-9]*/cwd; do
			case $(readlink "$cwd" 2>/dev/null || true) in "$tmp"/*) echo "$cwd" ;; esac
		done
	} | cut -d/ -f3 | sort -un
}

# left_addresses prints the addresses of lo that the tests gave to servers.
left_addresses() { ip -o -4 address show dev lo label "lo:${tmp##*.}" 2>/dev/null | awk '{ print $4 }'; }

left_mounts() { awk -v dir="$tmp" 'index($2, dir "/") == 1 { print $2 }' /proc/self/mounts | sort -r; }

left_loops() {
	local file
	for file in /sys/block/loop*/loop/backing_file; do
		if grep -qsF "$tmp/" "$file"; then echo "/dev/$(cut -d/ -f4 <<<"$file")"; fi
	done
}

# left_bridges prints the bridges of local clouds with network namespaces: their alias is the cloud's directory.
left_bridges() {
	local alias
	for alias in /sys/class/net/gvb*/ifalias; do
		if grep -qsF "$tmp/" "$alias"; then cut -d/ -f5 <<<"$alias"; fi
	done
}

# sweep tells what the run has left behind and removes it; it fails when there was anything.
sweep() {
	local pid mount loop pids mounts loops bridge bridges namespace address addresses tries
	for ((tries = 0; tries < 50; tries++)); do # what ends by itself may take a moment
		pids=$(left_processes)
		[ -z "$pids" ] && break
		sleep 0.1
	done
	for pid in $pids; do
		say "left behind: process $pid: $(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" || true)"
		kill -KILL "$pid" 2>/dev/null || true
	done
	mounts=$(left_mounts)
	for mount in $mounts; do
		say "left behind: mount $mount"
		umount -l "$mount" || true
	done
	loops=$(left_loops)
	for loop in $loops; do
		say "left behind: loop device $loop"
		losetup -d "$loop" || true
	done
	bridges=$(left_bridges)
	for bridge in $bridges; do
		say "left behind: bridge $bridge"
		for namespace in /run/netns/"$bridge"-*; do
			if [ -e "$namespace" ]; then ip netns delete "${namespace##*/}" || true; fi
		done
		ip link delete "$bridge" || true
	done
	addresses=$(left_addresses)
	for address in $addresses; do
		say "left behind: address $address"
		ip address delete "$address" dev lo || true
	done
	[ -z "$pids$mounts$loops$bridges$addresses" ]
}

# free_port prints a port that nothing listens on at 127.0.0.1: the first of its arguments that is free, or another
# below the range that the kernel gives to clients.
# shellcheck disable=SC2120
free_port() {
	local port tries
	for port in "$@"; do
		if ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
			echo "$port"
			return 0
		fi
	done
	for ((tries = 0; tries < 100; tries++)); do
		port=$((20000 + RANDOM % 12000))
		if ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
			echo "$port"
			return 0
		fi
	done
	die "found no free port"
}

# start_postgres runs a PostgreSQL on a free loopback port, with a password of its own, and as user postgres when this is
# root (PostgreSQL refuses root). Its arguments are passed on. It exports GROVE_TEST_POSTGRES.
start_postgres() {
	local bin port tries waited as=() dir=$tmp/pg password
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
			-c unix_socket_directories="$dir" -c max_connections=500 "$@" >postgres.log 2>&1) &
		postgres=$!
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

stop_postgres() {
	[ -n "$postgres" ] || return 0
	kill -INT "$postgres" 2>/dev/null || true
	wait "$postgres" 2>/dev/null || true
	postgres=
}
