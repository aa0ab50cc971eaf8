#!/usr/bin/env bash
# Long runs: RESTARTS (200) restarts of an agent under load, HAMMER (10^9) look-ups of places while they are written, then
# meshes of 10, 50 and 250 clusters. Needs root, and takes about half an hour.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/development/cargo.sh

part() { # NAME COMMAND...
    local name=$1 began=$SECONDS
    shift
    echo "soak: $name" >&2
    "$@"
    echo "soak: $name took $((SECONDS - began)) s" >&2
}

part "restarts of an agent under load" \
    env RESTARTS="${RESTARTS:-200}" cargo test --locked --quiet -p mesh-e2e --test restarts -- --nocapture
part "look-ups of places" \
    env HAMMER="${HAMMER:-1000000000}" cargo test --locked --quiet -p mesh-policy-kernel --test hammer -- --nocapture
part "release build" cargo build --locked --release --workspace --bins
part "meshes of many clusters" target/release/clustermesh bench mesh --picture target/growth.svg
echo "soak: the picture is target/growth.svg; all took $SECONDS s" >&2
