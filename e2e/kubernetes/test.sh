#!/usr/bin/env bash
# Runs the scenarios of e2e/tests/kind on kind clusters, one after another; with names, only those. Needs root.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
. deploy/development/cargo.sh

if [ "${KEEP:-0}" != 1 ]; then trap e2e/kubernetes/kind/down.sh EXIT; fi
cargo test --locked --quiet -p mesh-e2e --test kind -- --test-threads=1 "$@"
