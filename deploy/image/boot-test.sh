#!/usr/bin/env bash
# Boots a guest image once under QEMU, in software (no KVM), with a config drive as OpenStack makes it and an empty volume,
# until its agent has reported to a RabbitMQ on this machine and a Redis on the volume takes a write by its instance's
# address. It says what was missing, and ends with the console's last words where that does not come about.
#
#   deploy/image/boot-test.sh [IMAGE.qcow2]        (default: .cache/guest-image/grove-guest.qcow2)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
# shellcheck source=deploy/dev/lib.sh
. "$top/deploy/dev/lib.sh"

image=$(realpath -m "${1:-$top/.cache/guest-image/grove-guest.qcow2}")
[ -s "$image" ] || die "there is no image $image: build it first, with make guest-image"
"$top/deploy/dev/install.sh" boot-image
cd "$top"
GROVE_GUEST_IMAGE=$image exec go test -count=1 -v -timeout 30m -run '^TestGuestImage$' ./cmd/grove-agent
