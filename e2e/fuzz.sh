#!/usr/bin/env bash
# Runs every fuzz target, guided by coverage, for SECONDS_EACH (60) seconds. An input that makes one fail is kept in its fuzz
# folder.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/development/cargo.sh

for folder in proto/wire/fuzz proto/policy/fuzz cli/policy/fuzz certs/fuzz clustermesh-apiserver/source/fuzz agent/cni/fuzz cli/offline/fuzz; do
    for target in "$folder"/fuzz_targets/*.rs; do
        name=$(basename "$target" .rs)
        echo "fuzz: $folder $name" >&2
        # libFuzzer's instrumentation needs an unstable flag of the compiler.
        RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir "$folder" "$name" -- -max_total_time="${SECONDS_EACH:-60}" -print_final_stats=1
    done
done
