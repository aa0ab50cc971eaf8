#!/usr/bin/env bash
# Formatting, lints, dependencies. Stops at the first that is not as it should be.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/development/cargo.sh

run() { echo "lint: $*" >&2; "$@"; }
run cargo fmt --all --check
run cargo clippy --locked --quiet --workspace --all-targets -- -D warnings
run cargo deny --offline --log-level error check licenses bans sources
# The kernel programs: a workspace of its own, with Debian's compiler.
cd ebpf/programs
debian() { env -u RUSTUP_TOOLCHAIN PATH=/usr/bin:/bin CARGO_TARGET_DIR=../../target/programs /usr/bin/cargo "$@"; }
run debian fmt --check
run debian clippy --locked --quiet --release -- -D warnings
