# The processes of an OpenStack in $state: each leads a group of its own, and is known by its id and when it was born, so
# that no other is taken for it. To be sourced by bash.
# shellcheck shell=bash
# shellcheck disable=SC2154 # state is set by who sources this

born() { awk '{ sub(/.*\) /, ""); print $20 }' "/proc/$1/stat" 2>/dev/null || true; }

# alive tells whether the process NAME runs, and sets pid.
alive() {
	local birth
	read -r pid birth 2>/dev/null <"$state/run/$1.pid" || return 1
	[ -n "$birth" ] && [ "$(born "$pid")" = "$birth" ] && ! grep -q '^State:.Z' "/proc/$pid/status" 2>/dev/null
}

# start NAME COMMAND... starts a process, unless it runs.
start() {
	local name=$1
	shift
	alive "$name" && return 0
	setsid nohup "$@" >>"$state/log/$name.log" 2>&1 </dev/null &
	echo "$! $(born $!)" >"$state/run/$name.pid"
}

# broken ends the start, and shows why.
broken() {
	tail -n 20 "$state/log/$1.log" >&2 || true
	die "OpenStack did not start: $1: $2 (the whole log: $state/log/$1.log)"
}

# await NAME SECONDS COMMAND... waits until a command succeeds that shows that NAME is up.
await() {
	local name=$1 end=$((SECONDS + $2))
	shift 2
	until "$@" >/dev/null 2>&1; do
		alive "$name" || broken "$name" "it ended"
		[ $SECONDS -lt $end ] || broken "$name" "it is not up in time"
		sleep 0.25
	done
}
