#!/usr/bin/env bash
# Plays random histories of the operation engine, from the seeds 1 to SEEDS (default 100000), and stops at one that
# breaks an invariant. With SEED, it shows the history of that seed alone: the same at every run of the same commit.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

export GROVE_SIMULATE_SEEDS=${SEEDS:-100000} GROVE_SIMULATE_SEED=${SEED:-}
exec go test -count=1 -timeout 0 -v -run '^TestSimulation$' ./taskmanager/engine/simulation
