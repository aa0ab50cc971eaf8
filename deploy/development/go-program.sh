#!/usr/bin/env bash
# go-program.sh FOLDER NAME [LDFLAGS [TIME]]: prints the path of the program whose module and main.go are in FOLDER. It is
# static: without cgo, or by LDFLAGS with CGO_ENABLED=1. TIME is how long it takes to build, for the user.
# Builds it unless the user's cache has one of that NAME and of the same go.mod, go.sum and main.go.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

module=${1:?"usage: go-program.sh FOLDER NAME [LDFLAGS [TIME]]"} name=${2:?"usage: go-program.sh FOLDER NAME [LDFLAGS [TIME]]"}
key=$(cat "$module/go.mod" "$module/go.sum" "$module/main.go" | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/clustermesh
binary=$cache/$name-$key
mkdir -p "$cache"
exec 8>"$binary.lock"
flock 8
if [ ! -x "$binary" ]; then
    go=$("$here/go.sh")
    echo "setup: building $name, once (${4:-some minutes})" >&2
    began=$SECONDS
    (cd "$module" && GOTOOLCHAIN=local GOFLAGS="-mod=readonly -buildvcs=false" CGO_ENABLED=${CGO_ENABLED:-0} \
        nice -n 10 "$go" build -trimpath -ldflags="-s -w ${3:-}" -o "$binary.new" . >&2)
    mv "$binary.new" "$binary"
    echo "setup: $name is built, after $((SECONDS - began)) s" >&2
fi
echo "$binary"
