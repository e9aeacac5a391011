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
	mark=GROVE_RUN=$tmp
}

# left_processes prints the ids of processes that the run started and that still live.
left_processes() {
	{
		env -u GROVE_RUN grep -lszxF "$mark" /proc/[0-9]*/environ || true
		env -u GROVE_RUN grep -lsF -f - /proc/[0-9]*/cmdline <<<"$tmp" || true
	} | cut -d/ -f3 | sort -un
}

left_mounts() { awk -v dir="$tmp" 'index($2, dir "/") == 1 { print $2 }' /proc/self/mounts | sort -r; }

left_loops() {
	local file
	for file in /sys/block/loop*/loop/backing_file; do
		if grep -qsF "$tmp/" "$file"; then echo "/dev/$(cut -d/ -f4 <<<"$file")"; fi
	done
}

# sweep tells what the run has left behind and removes it; it fails when there was anything.
sweep() {
	local pid mount loop pids mounts loops tries
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
	[ -z "$pids$mounts$loops" ]
}

# free_port prints a port that nothing listens on at 127.0.0.1: the first of its arguments that is free, or another
# below the range that the kernel gives to clients.
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
