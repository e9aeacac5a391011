#!/usr/bin/env bash
# Builds a bootable guest image from Debian 12's packages: kernel, cloud-init, chrony, Redis, Valkey and grove-agent.
#
#   deploy/image/build.sh [IMAGE.qcow2]        (default: .cache/guest-image/grove-guest.qcow2)
#
# As root, on Debian or Ubuntu. What it needs itself it installs, and starts no service. Where packages come from:
#
#   DEBIAN_MIRROR    http://deb.debian.org/debian
#   SECURITY_MIRROR  http://deb.debian.org/debian-security
#   MONGODB_SOURCE   a line of sources.list(5) of a mirror that has mongodb-org; unset: no MongoDB. MONGODB_KEY names the
#                    file with the key that signs it
#   AGENT            the grove-agent to put in; unset: it is built from here
#
# Nothing in the image is secret, and nobody can log in to it: it is the same for every guest.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
# shellcheck source=deploy/dev/lib.sh
. "$top/deploy/dev/lib.sh"

image=$(realpath -m "${1:-$top/.cache/guest-image/grove-guest.qcow2}")
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
security=${SECURITY_MIRROR:-http://deb.debian.org/debian-security}
size=3G

[ "$(id -u)" = 0 ] || die "a guest image is built by root: it mounts filesystems and makes device nodes"
"$top/deploy/dev/install.sh" image

mkdir -p "$(dirname "$image")"
work=$(mktemp -d "$(dirname "$image")/build.XXXXXX")
root=$work/root disk=$work/disk.raw
cleanup() {
	for dir in "$root/proc" "$root/sys" "$root/dev" "$work/mnt"; do
		! mountpoint -q "$dir" || umount "$dir"
	done
	rm -rf --one-file-system "$work"
}
trap cleanup EXIT

packages=(
	linux-image-cloud-amd64 initramfs-tools systemd systemd-sysv systemd-resolved udev dbus kmod procps
	cloud-init cloud-guest-utils fdisk e2fsprogs iproute2 ca-certificates chrony redis-server
	valkey-server/bookworm-backports valkey-tools/bookworm-backports
)

say "installing Debian 12 (a few minutes)"
debootstrap --variant=minbase bookworm "$root" "$mirror" >"$work/debootstrap.log" 2>&1 ||
	{ tail -20 "$work/debootstrap.log" >&2; die "debootstrap failed"; }
cat >"$root/etc/apt/sources.list" <<SOURCES
deb $mirror bookworm main
deb $mirror bookworm-updates main
deb $mirror bookworm-backports main
deb $security bookworm-security main
SOURCES
if [ -n "${MONGODB_SOURCE:-}" ]; then
	[ -z "${MONGODB_KEY:-}" ] || install -m 644 "$MONGODB_KEY" "$root/etc/apt/trusted.gpg.d/"
	echo "$MONGODB_SOURCE" >"$root/etc/apt/sources.list.d/mongodb.list"
	packages+=(mongodb-org-server mongodb-mongosh)
fi
# No service starts while its package is installed.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount --bind /dev "$root/dev"

within() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive HOME=/root LC_ALL=C ${http_proxy:+http_proxy="$http_proxy"} chroot "$root" "$@"; }
apt() { within apt-get -q -y -o Dpkg::Use-Pty=0 -o APT::Install-Recommends=false "$@" >>"$work/apt.log" 2>&1 || { tail -20 "$work/apt.log" >&2; die "apt-get $1 failed"; }; }
apt update
apt dist-upgrade
apt install "${packages[@]}" # in one go: systemd-resolved takes away by whose name servers packages are found
apt clean

say "adding grove-agent"
if [ -z "${AGENT:-}" ]; then
	AGENT=$work/grove-agent
	(cd "$top" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(git describe --always --dirty 2>/dev/null || echo image)" -o "$AGENT" ./cmd/grove-agent)
fi
install -m 755 "$AGENT" "$root/usr/bin/grove-agent"
install -m 644 "$top/deploy/systemd/grove-agent.service" "$root/lib/systemd/system/"
cp -r --no-preserve=ownership "$here/files/." "$root/"
within useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin grove-db # whom databases run as

# Grove's agent starts databases; packages' own services stay off, and so does what changes a database's machine unasked.
for unit in redis-server redis-sentinel valkey-server valkey-sentinel mongod; do
	within systemctl mask "$unit.service" >/dev/null 2>&1
done
within systemctl disable apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer >/dev/null 2>&1 || true
# The agent's unit starts when cloud-init has written what it is.
within systemctl enable grove-agent systemd-networkd systemd-resolved chrony >/dev/null 2>&1
rm -f "$root/usr/sbin/policy-rc.d" "$root"/etc/ssh/ssh_host_* "$root/var/lib/dbus/machine-id"
: >"$root/etc/machine-id"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/log/*.log "$root"/usr/share/{doc,man,locale}/*
ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
for dir in proc sys dev; do umount "$root/$dir"; done

say "writing $image"
first=1048576 # bytes: where the one partition begins
truncate -s "$size" "$disk"
printf 'label: dos\nstart=2048, type=83, bootable\n' | sfdisk -q "$disk"
# What extlinux reads is the older form of ext4; cloud-init grows it at first boot.
mkfs.ext4 -q -F -L grove-root -O ^64bit,^metadata_csum -E "offset=$first" "$disk" "$((($(stat -c %s "$disk") - first) / 1024))k"
mkdir "$work/mnt"
mount -o "loop,offset=$first" "$disk" "$work/mnt"
cp -a "$root/." "$work/mnt/"
mkdir -p "$work/mnt/boot/extlinux"
cat >"$work/mnt/boot/extlinux/extlinux.conf" <<'CONF'
DEFAULT grove
PROMPT 0
TIMEOUT 0
LABEL grove
  LINUX /vmlinuz
  INITRD /initrd.img
  APPEND root=LABEL=grove-root ro console=tty0 console=ttyS0,115200 net.ifnames=0 transparent_hugepage=madvise
CONF
extlinux --install "$work/mnt/boot/extlinux" >"$work/extlinux.log" 2>&1 || { cat "$work/extlinux.log" >&2; die "extlinux failed"; }
umount "$work/mnt"
dd if="$root/usr/lib/EXTLINUX/mbr.bin" of="$disk" bs=440 count=1 conv=notrunc status=none 2>/dev/null ||
	dd if=/usr/lib/EXTLINUX/mbr.bin of="$disk" bs=440 count=1 conv=notrunc status=none
qemu-img convert -c -O qcow2 "$disk" "$image.new"
mv "$image.new" "$image"
say "$image: $(du -h "$image" | cut -f1)"
