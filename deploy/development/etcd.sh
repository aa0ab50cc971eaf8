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
key=$(cat "$module/go.mod" "$module/go.sum" "$module/main.go" | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/clustermesh
binary=$cache/etcd-$version-$key
mkdir -p "$cache"
exec 8>"$binary.lock"
flock 8
if [ ! -x "$binary" ]; then
    full=$(sed -n 's/^require go.etcd.io\/etcd\/server\/v3 v//p' "$module/go.mod")
    go=$("$here/go.sh")
    echo "setup: building etcd $full, once (about two minutes)" >&2
    began=$SECONDS
    (cd "$module" && GOTOOLCHAIN=local GOFLAGS="-mod=readonly -buildvcs=false" CGO_ENABLED=0 \
        nice -n 10 "$go" build -trimpath -ldflags='-s -w' -o "$binary.new" . >&2)
    mv "$binary.new" "$binary"
    echo "setup: etcd $full is built, after $((SECONDS - began)) s" >&2
fi
echo "$binary"
