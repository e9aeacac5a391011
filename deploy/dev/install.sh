#!/usr/bin/env bash
# Installs what is missing for "make demo", "make test", "make test-openstack" or "make guest-image" on Debian, and nothing
# that is there already.
#
#   deploy/dev/install.sh demo|test|openstack|packages|image|boot-image
#
# No service is started, stopped or enabled: while dpkg runs it finds stand-ins for the service commands first in its
# path. They live in a temporary directory, so that nothing stays behind even when this script is killed, and a
# policy-rc.d of the machine's own is left alone. Valkey, which Debian 12 has only in its backports, is unpacked into a
# cache directory; apt's sources stay as they are.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/dev/lib.sh
. "$here/lib.sh"

work=$(mktemp -d "${TMPDIR:-/tmp}/grove-install.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work" # apt downloads as a user of its own

# need PACKAGE COMMAND...: notes the package as missing when the command fails.
missing=()
need() {
	local package=$1
	shift
	"$@" >/dev/null 2>&1 || missing+=("$package")
}

compiles() {
	printf '#include <stdlib.h>\nint main(void) { return 0; }\n' | "${CC:-gcc}" -x c -o "$work/compiled" -
}

certificates() {
	[ -s /etc/ssl/certs/ca-certificates.crt ] || [ -n "${SSL_CERT_FILE:-}${SSL_CERT_DIR:-}" ]
}

installed() { dpkg-query -W -f '${db:Status-Status}' "$1" | grep -qx installed; }

need ca-certificates certificates # Go fetches modules over TLS
need redis-server command -v redis-server
need redis-tools command -v redis-cli
case "${1:-}" in
demo) ;;
test)
	if ! compiles 2>/dev/null; then missing+=(gcc libc6-dev); fi
	need postgresql postgres_bin
	need rabbitmq-server rabbitmq_bin
	need e2fsprogs command -v mkfs.ext4
	need mount command -v losetup
	need iproute2 command -v ip
	;;
openstack)
	for package in curl procps rabbitmq-server mariadb-server memcached uwsgi-core uwsgi-plugin-python3 python3-pymysql \
		python3-pymemcache python3-memcache python3-keystone python3-keystonemiddleware python3-placement python3-glance \
		glance-common python3-nova nova-common python3-cinder cinder-common python3-neutron neutron-common \
		python3-openstackclient python3-troveclient; do
		need "$package" installed "$package"
	done
	;;
packages) need debootstrap command -v debootstrap ;;
image)
	need debootstrap command -v debootstrap
	need extlinux command -v extlinux
	need fdisk command -v sfdisk
	need e2fsprogs command -v mkfs.ext4
	need mount command -v losetup
	need qemu-utils command -v qemu-img
	;;
boot-image)
	need qemu-system-x86 command -v qemu-system-x86_64
	need genisoimage command -v genisoimage
	need qemu-utils command -v qemu-img
	need rabbitmq-server rabbitmq_bin
	;;
*) die "usage: $0 demo|test|openstack|packages|image|boot-image" ;;
esac

# as_root runs a command as root: directly, or through sudo where that is allowed.
as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	else
		sudo "$@"
	fi
}

may_be_root() {
	[ "$(id -u)" = 0 ] && return 0
	command -v sudo >/dev/null || return 1
	sudo -n true 2>/dev/null && return 0
	[ -t 0 ] && [ -t 2 ] && sudo -v
}

# stand_ins makes commands that dpkg's scripts find before the real ones: a service is neither started nor enabled.
stand_ins() {
	local dir=$work/bin name
	mkdir "$dir"
	for name in invoke-rc.d deb-systemd-invoke service; do
		printf '#!/bin/sh\nexit 0\n' >"$dir/$name"
	done
	cat >"$dir/systemctl" <<-'SH'
		#!/bin/sh
		for arg; do
			case $arg in start | stop | restart | reload | *-restart | enable | preset*) exit 0 ;; esac
		done
		[ -x /usr/bin/systemctl ] || exit 0
		exec /usr/bin/systemctl "$@"
	SH
	# "enable" only notes the unit, as for one that its administrator has disabled; one that is enabled stays so.
	cat >"$dir/deb-systemd-helper" <<-'SH'
		#!/bin/sh
		for arg; do
			shift
			[ "$arg" = enable ] && arg=update-state
			set -- "$@" "$arg"
		done
		exec /usr/bin/deb-systemd-helper "$@"
	SH
	cat >"$dir/update-rc.d" <<-'SH'
		#!/bin/sh
		if [ "$2" = defaults ] && ! ls /etc/rc[2-5].d/S[0-9][0-9]"$1" >/dev/null 2>&1; then
			exec /usr/sbin/update-rc.d "$1" defaults-disabled
		fi
		exec /usr/sbin/update-rc.d "$@"
	SH
	chmod 755 "$dir"/*
}

apt() {
	as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 APT_LISTCHANGES_FRONTEND=none \
		apt-get -q -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 -o "DPkg::Path=$work/bin:/usr/sbin:/usr/bin:/sbin:/bin" "$@"
}

install_packages() {
	command -v apt-get >/dev/null ||
		die "missing: ${missing[*]} (Debian's names); this machine has no apt-get, so please install them yourself"
	may_be_root ||
		die "these Debian packages are missing: ${missing[*]}. Install them as root, or run once as root: $here/install.sh $1"
	say "installing ${missing[*]} (no service is started)"
	stand_ins
	local package
	for package in "${missing[@]}"; do
		if ! apt-cache policy "$package" 2>/dev/null | grep -q 'Candidate: [0-9]'; then
			apt update
			break
		fi
	done
	# A list that is too old names files that the mirror no longer has.
	apt install -y --no-install-recommends "${missing[@]}" || {
		apt update
		apt install -y --no-install-recommends "${missing[@]}"
	}
}

# mirror prints "[options] URI" of the machine's own source of the Debian release $1, from either format of sources.
mirror() {
	local files=()
	shopt -s nullglob
	files=(/etc/apt/sources.list.d/*.sources)
	if [ ${#files[@]} -gt 0 ]; then
		awk -v suite="$1" '
			function flush() {
				if (!found && deb && uri != "" && (" " suites " ") ~ (" " suite " ") && enabled != "no") {
					print (key ~ /^\// ? "[signed-by=" key "] " : "") uri
					found = 1
				}
				deb = uri = suites = key = enabled = ""
			}
			FNR == 1 || /^[ \t]*$/ { flush() }
			/^Types:/     { deb = /[ \t]deb([ \t]|$)/ }
			/^URIs:/      { uri = $2 }
			/^Suites:/    { $1 = ""; suites = $0 }
			/^Signed-By:/ { key = $2 }
			/^Enabled:/   { enabled = $2 }
			END { flush() }' "${files[@]}"
	fi
	files=(/etc/apt/sources.list.d/*.list)
	[ -e /etc/apt/sources.list ] && files+=(/etc/apt/sources.list)
	if [ ${#files[@]} -gt 0 ]; then
		sed -nE "s#^deb[[:space:]]+(\[[^]]*\][[:space:]]+)?([^[:space:]]+)[[:space:]]+$1[[:space:]].*#\1\2#p" "${files[@]}"
	fi
	shopt -u nullglob
}

# install_valkey unpacks valkey-server, and the libraries of it that the machine lacks, into the cache directory.
install_valkey() {
	local release source dir=$valkey_dir new=$work/valkey root=$work/apt
	command -v valkey-server >/dev/null && return
	command -v apt-get >/dev/null || die "missing: valkey-server 8; please install it yourself"
	# shellcheck source=/dev/null
	release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	source=$(mirror "$release" | grep -v 'cdrom:' | head -n 1)
	[ -n "$source" ] || die "found no source of Debian $release in /etc/apt to take valkey-server from"
	say "unpacking valkey-server from $release-backports into $dir"

	mkdir -p "$root/state/lists/partial" "$root/cache/archives/partial" "$root/empty" "$new"
	{
		echo "deb $source $release main"
		echo "deb $source $release-backports main"
	} >"$root/sources.list"
	cat >"$root/apt.conf" <<-CONF
		Dir::Etc::sourcelist "$root/sources.list";
		Dir::Etc::sourceparts "$root/empty";
		Dir::State "$root/state";
		Dir::State::status "/var/lib/dpkg/status";
		Dir::Cache "$root/cache";
		Debug::NoLocking "true";
		APT::Get::Assume-Yes "true";
		APT::Install-Recommends "false";
		APT::Keep-Downloaded-Packages "true";
		Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
		Acquire::Languages "none";
		APT::Update::Post-Invoke {};
	CONF
	APT_CONFIG=$root/apt.conf apt-get -q update
	APT_CONFIG=$root/apt.conf apt-get -q install --download-only "valkey-server/$release-backports" \
		"valkey-tools/$release-backports"
	local deb
	for deb in "$root"/cache/archives/*.deb; do
		dpkg-deb -x "$deb" "$new/root"
	done
	link_valkey "$new" "$dir"
	rm -rf "$dir"
	mkdir -p "$(dirname "$dir")"
	cp -a "$new" "$dir.$$"
	mv -T "$dir.$$" "$dir"
	"$dir/bin/valkey-server" --version
}

# link_valkey makes $1/bin for a directory that will stand at $2: links, or scripts where a library came along.
link_valkey() {
	local new=$1 dir=$2 name libs
	libs=$(find "$new/root" -name '*.so*' -printf '%h\n' | sort -u | sed "s#^$new#$dir#" | paste -sd:)
	mkdir "$new/bin"
	for name in valkey-server valkey-cli; do
		if ldd "$new/root/usr/bin/$name" | grep -q 'not found'; then
			printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$libs" "$dir/root/usr/bin/$name" >"$new/bin/$name"
			chmod 755 "$new/bin/$name"
		else
			ln -s "../root/usr/bin/$name" "$new/bin/$name"
		fi
	done
}

if [ ${#missing[@]} -gt 0 ]; then
	install_packages "$1"
fi
if [ "$1" = test ]; then
	install_valkey
fi
