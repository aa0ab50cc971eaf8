#!/usr/bin/env bash
# Runs the lints, then every test that this machine can run, and of those on kind clusters a short set. At the end it prints
# what each part took, the slowest tests, and what could not run and why.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/development/cargo.sh

log=$(mktemp)
kind=
end() {
    rm -f "$log"
    if [ -n "$kind" ]; then e2e/kubernetes/kind/down.sh; fi
}
trap end EXIT
cannot=()
parts=()
began=$SECONDS
part() { # NAME: what was done since the last part, or since the start
    parts+=("$((SECONDS - began)) s  $1")
    began=$SECONDS
}

# Test programs print how long each test took. In Rust's harness this is an unstable flag.
host=$(rustc -vV | sed -n 's/^host: //p')
runner=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<< "$host")_RUNNER
tests() { # NAME CARGO-FLAG... -- HARNESS-FLAG...
    local name=$1
    shift
    echo "test: $name" >&2
    env "$runner=${room:-} env RUSTC_BOOTSTRAP=1" cargo test --locked --quiet --no-fail-fast "$@" -Zunstable-options --report-time --format pretty |
        tee -a "$log" | grep -vE '^(test .* ok( <.*>)?|running [0-9]+ tests?|test result: ok.*|)$' || [ "${PIPESTATUS[0]}" -eq 0 ]
    part "$name"
}

# The others are in `make test-kind`.
short=(spread failover guest::a_kube_proxy_goes_on)

deploy/development/lint.sh
part "lints"

if [ "$(id -u)" -ne 0 ]; then
    why="needs root, for network namespaces and eBPF; run as root"
elif ! grep -q ' cgroup2 ' /proc/mounts || [ ! -e /sys/kernel/btf/vmlinux ]; then
    why="needs a kernel with BPF, BTF and a cgroup2 mount"
else
    why=
fi
if [ -n "$why" ]; then
    cannot+=("the programs in the kernel (mesh-dataplane, test kernel): $why")
    cannot+=("the lab, real etcds and the scenarios (mesh-e2e): $why")
fi
# The upgrade test builds this commit once, in the user's cache.
earlier=6120241
skipped=()
if ! git cat-file -e "$earlier^{commit}" 2>/dev/null; then
    cannot+=("upgrade from the release before layouts by group, and back: this clone lacks commit $earlier (git fetch --unshallow)")
    skipped=(--skip the_release_before_groups_and_back)
fi

tests "units and properties" --workspace --exclude mesh-e2e --exclude mesh-dataplane --lib --bins --tests --
tests "tables" -p mesh-dataplane --lib --
if [ -z "$why" ]; then
    # Built before the tests, because each of them would wait for it.
    for version in 3.5 3.6; do deploy/development/etcd.sh "$version" >/dev/null; done
    deploy/development/kubernetes.sh >/dev/null
    part "Go programs"
    room=$PWD/e2e/clean-room.sh tests "programs in the kernel" -p mesh-dataplane --test kernel --
    tests "whole meshes" -p mesh-e2e --lib --tests -- --test-threads=3 "${skipped[@]}"
    if unable=$(CHECK=1 e2e/kubernetes/kind/up.sh 2>&1); then
        if [ ! -e "${CLUSTERMESH_KIND:-/run/clustermesh-kind}/dockerd.pid" ]; then kind=up; fi
        CLUSTERS="a b" e2e/kubernetes/kind/up.sh >/dev/null
        part "kind clusters"
        tests "scenarios on kind clusters (short set)" -p mesh-e2e --test kind -- --test-threads=1 --exact "${short[@]}"
    else
        cannot+=("scenarios on kind clusters: $unable")
    fi
fi
echo "test: documentation" >&2
cargo test --locked --quiet --workspace --doc >/dev/null
part "documentation"

echo
echo "The parts:"
printf '%s\n' "${parts[@]}"
echo
echo "The ten slowest:"
sed -nE 's/^test (.*) \.\.\. .*<([0-9.]+)s>$/\2 s  \1/p' "$log" | sort -rn | sed -n 1,10p
echo
passed=$(grep -cE '^test .* \.\.\. ok' "$log" || true)
echo "$passed tests passed."
unavailable=$(cargo run --locked --quiet -p mesh-e2e --bin unavailable) || { echo "$unavailable"; exit 1; }
if [ -n "$unavailable" ]; then cannot+=("$unavailable"); fi
if [ ${#cannot[@]} -eq 0 ]; then
    echo "Everything could run on this machine."
else
    echo "Not run, and why:"
    printf '  %s\n' "${cannot[@]}"
fi
