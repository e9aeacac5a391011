#!/usr/bin/env bash
# Says whether the machine's Go is as new as go.mod asks for, and what to do when it is not.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

want=$(awk '$1 == "go" { print $2 }' go.mod)
if ! command -v go >/dev/null; then
	echo "Grove needs Go >= $want (go.mod); found none in the path. Get it from https://go.dev/dl and put its bin directory into PATH." >&2
	exit 1
fi
# A Go that fetches the toolchain it needs names that one; one that may not names itself.
found=$({ go version || GOTOOLCHAIN=local go version; } 2>/dev/null | sed -nE 's/.*go([0-9]+(\.[0-9]+)*).*/\1/p' | head -n 1)
if [ "$(printf '%s\n%s\n' "$want" "${found:-0}" | sort -V | head -n 1)" != "$want" ]; then
	echo "Grove needs Go >= $want (go.mod); found ${found:-an unknown version} ($(command -v go)). Get a newer one from https://go.dev/dl and put its bin directory first into PATH." >&2
	exit 1
fi
