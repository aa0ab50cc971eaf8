#!/usr/bin/env bash
# etcd.sh VERSION: prints the path of the etcd that e2e/etcd/vVERSION names; `debian` is the packaged one.
# Builds it, in about two minutes on two cores, unless the user's cache has one of the same go.mod, go.sum and main.go.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

version=${1:?"usage: etcd.sh VERSION, as in 3.6, or debian"}
if [ "$version" = debian ]; then
    command -v etcd || { echo "setup: there is no etcd: run make setup" >&2; exit 1; }
    exit
fi
module=$here/../../e2e/etcd/v$version
if [ ! -f "$module/go.mod" ]; then
    echo "setup: etcd $version is not known. There are: $(cd "$module/.." && echo v*)" >&2
    exit 1
fi
exec "$here/go-program.sh" "$module" "etcd-$version"
