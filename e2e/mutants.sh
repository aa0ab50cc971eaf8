#!/usr/bin/env bash
# Tests that notice nothing are worth nothing: each patch in e2e/mutants breaks a promise in a copy of this tree, and the
# tests that it names must fail. Names of patches as arguments: only these.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/development/cargo.sh

copy=$(mktemp -d)
trap 'rm -rf "$copy" "$copy.log"' EXIT
# What git knows or would take: no build, no caches. All of it is new, or cargo would take a mutant of an earlier run for it.
git ls-files --cached --others --exclude-standard -z |
    while IFS= read -rd '' file; do [ -e "$file" ] && printf '%s\0' "$file"; done |
    tar --null --files-from=- --create --file=- | tar --extract --touch --directory="$copy"
# One target for all of them: a mutant costs the crate that it is in.
export CARGO_TARGET_DIR=$PWD/target/mutants CARGO_TERM_PROGRESS_WHEN=never
survivors=()

run() { # TESTS, words of cargo's
    # shellcheck disable=SC2086
    (cd "$copy" && cargo test --locked --quiet $1)
}

for patch in e2e/mutants/*.patch; do
    name=$(basename "$patch" .patch)
    if [ $# -gt 0 ] && [[ " $* " != *" $name "* ]]; then continue; fi
    tests=$(sed -n 's/^Tests: //p' "$patch")
    patch --directory="$copy" --strip=1 --silent --dry-run < "$patch" ||
        { echo "$name does not fit the code any more: mend $patch" >&2; exit 1; }
    # It must be the mutant that the tests fail of.
    run "$tests" > "$copy.log" 2>&1 || { cat "$copy.log" >&2; echo "without $name the tests fail too" >&2; exit 1; }
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
        echo "$name does not compile: mend $patch" >&2
        exit 1
    fi
    patch --directory="$copy" --strip=1 --silent --reverse < "$patch"
done
[ ${#survivors[@]} -eq 0 ] || { echo "The tests did not notice: ${survivors[*]}" >&2; exit 1; }
