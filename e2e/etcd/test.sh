#!/usr/bin/env bash
# Runs the suites that depend on the version of etcd with each version that is not the default. Needs root, because they create
# network namespaces.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/development/cargo.sh

for version in 3.5 3.6; do
    CLUSTERMESH_LAB_ETCD=$(deploy/development/etcd.sh "$version")
    export CLUSTERMESH_LAB_ETCD
    echo "test: etcd $version" >&2
    for suite in etcd etcd_init watches following apiserver chaos attacks; do
        cargo test --locked --quiet --no-fail-fast -p mesh-e2e --test "$suite" -- --test-threads=3
    done
done

echo "test: 200,000 idle revisions" >&2
REVISIONS=200000 cargo test --locked --quiet --no-fail-fast -p mesh-e2e --test etcd_capacity does_not_grow
