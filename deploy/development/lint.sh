#!/usr/bin/env bash
# Checks formatting, lints and dependencies. Stops at the first failure.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/development/cargo.sh

run() { echo "lint: $*" >&2; "$@"; }
run cargo fmt --all --check
run cargo clippy --locked --quiet --workspace --all-targets -- -D warnings
run cargo deny --offline --log-level error check licenses bans sources
# The kernel programs are a separate workspace, for Debian's compiler.
cd ebpf/programs
debian() { env -u RUSTUP_TOOLCHAIN PATH=/usr/bin:/bin CARGO_TARGET_DIR=../../target/programs /usr/bin/cargo "$@"; }
run debian fmt --check
run debian clippy --locked --quiet --release -- -D warnings
