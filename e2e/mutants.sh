#!/usr/bin/env bash
# Checks that tests notice errors: each patch in e2e/mutants breaks a promise in a copy of this tree, and the tests that it
# names must fail. With names of patches as arguments, only these are tried.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/development/cargo.sh

copy=$(mktemp -d)
trap 'rm -rf "$copy" "$copy.log"' EXIT
# Tracked files and new ones that are not ignored. They get new timestamps, so that cargo does not use the build of a mutant of
# an earlier run.
git ls-files --cached --others --exclude-standard -z |
    while IFS= read -rd '' file; do [ -e "$file" ] && printf '%s\0' "$file"; done |
    tar --null --files-from=- --create --file=- | tar --extract --touch --directory="$copy"
# One target directory for all mutants: each then only builds the crate that it changes.
export CARGO_TARGET_DIR=$PWD/target/mutants CARGO_TERM_PROGRESS_WHEN=never
survivors=()

run() { # CARGO-TEST-ARGUMENTS
    # shellcheck disable=SC2086
    (cd "$copy" && cargo test --locked --quiet $1)
}

for patch in e2e/mutants/*.patch; do
    name=$(basename "$patch" .patch)
    if [ $# -gt 0 ] && [[ " $* " != *" $name "* ]]; then continue; fi
    tests=$(sed -n 's/^Tests: //p' "$patch")
    patch --directory="$copy" --strip=1 --silent --dry-run < "$patch" ||
        { echo "$name no longer applies to the code: adapt $patch" >&2; exit 1; }
    # Without the mutant, the tests must pass.
    run "$tests" > "$copy.log" 2>&1 || { cat "$copy.log" >&2; echo "the tests fail even without $name" >&2; exit 1; }
    patch --directory="$copy" --strip=1 --silent < "$patch"
    if run "$tests --no-run" > "$copy.log" 2>&1; then
        if run "$tests" > "$copy.log" 2>&1; then
            echo "SURVIVED  $name: cargo test $tests"
            survivors+=("$name")
        else
            echo "killed    $name: $(sed -nE 's/^    ([a-z_:]+)$/\1/p' "$copy.log" | sort -u | paste -sd ' ')"
        fi
    else
        cat "$copy.log" >&2
        echo "$name does not compile: adapt $patch" >&2
        exit 1
    fi
    patch --directory="$copy" --strip=1 --silent --reverse < "$patch"
done
[ ${#survivors[@]} -eq 0 ] || { echo "The tests did not notice: ${survivors[*]}" >&2; exit 1; }
