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
