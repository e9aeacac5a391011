#!/usr/bin/env bash
# Runs random histories of the operation engine from SEEDS seeds (default 100000), the first of which is SEED. A history
# that breaks an invariant is printed with its seed; the same seed at the same commit gives the same history.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

export GROVE_SIMULATE_SEEDS=${SEEDS:-100000} GROVE_SIMULATE_SEED=${SEED:-}
exec go test -count=1 -timeout 0 -v -run '^TestSimulation' ./taskmanager/...
