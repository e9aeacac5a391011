#!/usr/bin/env bash
# Installs the packages of dist/ in a fresh Debian 12 below a temporary directory, uses them, and removes them again: what
# the packages need is there, configuration and units are taken, a purge leaves nothing. Needs root.
#
#   deploy/debian/test.sh        (make test-packages)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/dev/lib.sh
. "$here/../dev/lib.sh"
cd "$repo"
[ "$(id -u)" = 0 ] || exec sudo --preserve-env=PATH "$0" "$@"
begin_run gp
root=$tmp/root
trap 'rm -rf --one-file-system "$tmp"' EXIT

inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"; }

# expect TEXT COMMAND... fails unless the command says the text.
expect() {
	local text=$1 out
	shift
	out=$(inside "$@" 2>&1) || true
	case $out in *"$text"*) ;; *) die "in the chroot, $* does not say \"$text\" but: $out" ;; esac
}

# systemd is there for systemd-analyze alone: none runs.
mirror=$(sed -nE 's#^(deb|URIs:) +(\[[^]]*\] +)?(https?://[^ ]+).*#\3#p' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -n 1 || true)
say "making a Debian 12 in $root"
debootstrap --variant=minbase --include=adduser,systemd bookworm "$root" "${mirror:-http://deb.debian.org/debian}" >"$tmp/debootstrap.log" 2>&1 ||
	die "debootstrap failed: $(tail -n 5 "$tmp/debootstrap.log")"
before=$(cd "$root" && find etc usr/bin usr/share lib/systemd var/lib -path var/lib/dpkg -prune -o -path var/lib/apt -prune -o -print | sort)
mkdir "$root/dist"
cp dist/*.deb "$root/dist/"

inside sh -c 'dpkg --install /dist/*.deb' >"$tmp/install.log" 2>&1 || die "dpkg --install failed: $(tail -n 5 "$tmp/install.log")"
expect "grove" grove --help
expect "grove-agent" grove-agent --version
expect "grove-db" id -un grove-db
expect "640 root grove" stat -c '%a %U %G' /etc/grove/grove.yaml
expect "700 grove grove" stat -c '%a %U %G' /var/lib/grove
expect "keys and database  failed" env GROVE_DB_PASSWORD=x GROVE_RPC_PASSWORD=x GROVE_KEYSTONE_PASSWORD=x \
	groved config check --config /etc/grove/grove.yaml # it was read: there is only nothing yet that it names
out=$(inside systemd-analyze verify --man=no /lib/systemd/system/grove-{api,taskmanager,agent}.service 2>&1) || die "systemd-analyze: $out"
[ -z "$out" ] || die "systemd-analyze: $out"
say "the packages work"

echo "# an operator was here" >>"$root/etc/grove/grove.yaml"
inside sh -c 'dpkg --install /dist/groved_*.deb' >/dev/null 2>&1 || die "the package cannot be installed over itself"
expect "an operator was here" cat /etc/grove/grove.yaml
inside dpkg --purge groved grove-agent grove >"$tmp/purge.log" 2>&1 || die "dpkg --purge failed: $(tail -n 5 "$tmp/purge.log")"
after=$(cd "$root" && find etc usr/bin usr/share lib/systemd var/lib -path var/lib/dpkg -prune -o -path var/lib/apt -prune -o -print | sort)
left=$(comm -13 <(echo "$before") <(echo "$after") | grep -vE '^etc/(passwd|group|shadow|gshadow|subuid|subgid)-?$' || true)
[ -z "$left" ] || die "a purge leaves: $left"
if grep -q '^grove:' "$root/etc/passwd"; then die "a purge leaves the user grove"; fi
say "a purge leaves nothing"
