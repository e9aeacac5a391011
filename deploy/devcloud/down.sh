#!/usr/bin/env bash
# Stops the OpenStack that up.sh started in a directory, and nothing else; with --wipe the directory goes, too.
#
#   deploy/devcloud/down.sh DIRECTORY [--wipe]
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/dev/lib.sh
. "$here/../dev/lib.sh"
# shellcheck source=deploy/devcloud/processes.sh
. "$here/processes.sh"

[ $# -ge 1 ] && [ -d "$1" ] || die "usage: $0 DIRECTORY [--wipe]"
state=$(cd "$1" && pwd)
groups=()
for file in "$state"/run/*.pid; do
	[ -e "$file" ] || continue
	name=$(basename "$file" .pid)
	if alive "$name"; then
		kill -TERM -- "-$pid" 2>/dev/null && groups+=("$pid")
	fi
	rm -f "$file"
done
for ((tries = 0; tries < 120 && ${#groups[@]} > 0; tries++)); do
	left=()
	for pid in "${groups[@]}"; do
		if pgrep -g "$pid" >/dev/null; then left+=("$pid"); fi
	done
	groups=("${left[@]}")
	sleep 0.25
done
for pid in "${groups[@]}"; do
	kill -KILL -- "-$pid" 2>/dev/null || true
done
if [ "${2:-}" = --wipe ]; then rm -rf "$state"; fi
say "OpenStack is stopped"
