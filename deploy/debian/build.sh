#!/usr/bin/env bash
# Builds the Debian packages of groved, grove-agent and grove from bin/, into dist/. The version is that of the programs.
#
#   deploy/debian/build.sh        (make packages)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$here/../.." && pwd)
cd "$repo"
arch=$(dpkg --print-architecture)
work=$(mktemp -d "${TMPDIR:-/tmp}/grove-packages.XXXXXX")
trap 'rm -rf "$work"' EXIT
umask 022

# version prints what Debian takes for a version: v1.2.3 is 1.2.3, a commit without a tag is older than every release.
version() {
	local tag
	if tag=$(git describe --tags --exact-match 2>/dev/null); then
		echo "${tag#v}"
	else
		echo "0~git$(git log -1 --format=%cd --date=format:%Y%m%d%H%M%S).$(git rev-parse --short HEAD)"
	fi
}
version=${VERSION:-$(version)}

# put SOURCE TARGET [MODE] puts a file into the package that is being made.
put() { install -D -m "${3:-644}" "$1" "$root/$2"; }

# package NAME makes the package of $root, with the maintainer scripts of its directory here.
package() {
	local name=$1 script size
	mkdir -p "$root/DEBIAN" "$root/usr/share/doc/$name" dist
	install -m 644 LICENSE "$root/usr/share/doc/$name/copyright"
	size=$(du -sk --exclude=DEBIAN "$root" | cut -f1)
	sed -e "s/@VERSION@/$version/; s/@ARCH@/$arch/; s/@SIZE@/$size/" "$here/$name/control" >"$root/DEBIAN/control"
	for script in postinst prerm postrm; do
		if [ -e "$here/$name/$script" ]; then install -m 755 "$here/$name/$script" "$root/DEBIAN/$script"; fi
	done
	if [ -d "$root/etc" ]; then (cd "$root" && find etc -type f -printf '/%p\n' | sort >DEBIAN/conffiles); fi
	dpkg-deb --root-owner-group --build "$root" "dist/${name}_${version}_$arch.deb" >/dev/null
	echo "dist/${name}_${version}_$arch.deb"
}

root=$work/groved
put bin/groved usr/bin/groved 755
put deploy/grove.yaml etc/grove/grove.yaml 640
for unit in grove-api grove-taskmanager; do put "deploy/systemd/$unit.service" "lib/systemd/system/$unit.service"; done
put deploy/prometheus/grove.rules.yml usr/share/groved/grove.rules.yml
put deploy/grafana/grove.json usr/share/groved/grove.json
package groved

root=$work/grove-agent
put bin/grove-agent usr/bin/grove-agent 755
put deploy/systemd/grove-agent.service lib/systemd/system/grove-agent.service
package grove-agent

root=$work/grove
put bin/grove usr/bin/grove 755
bin/grove completion bash >"$work/completion"
put "$work/completion" usr/share/bash-completion/completions/grove
package grove
