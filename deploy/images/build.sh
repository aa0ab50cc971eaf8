#!/usr/bin/env bash
# build.sh [NAME:TAG]: makes the image clustermesh:dev, or that of another name, by the docker on PATH. The image has the four
# programs of target/$PROFILE (debug), an etcd, and the libraries that they need; no shell and nothing else. To build the programs:
# make build.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)

image=${1:-clustermesh:dev} built=$root/target/${PROFILE:-debug}
programs=(clustermesh clustermesh-agent clustermesh-apiserver clustermesh-cni)
for program in "${programs[@]}"; do
    if [ ! -x "$built/$program" ]; then
        echo "images: there is no $built/$program. Build it: make build" >&2
        exit 1
    fi
done
etcd=$("$root/deploy/development/etcd.sh" 3.6)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/root"/{etc,run,tmp,usr/local/bin,var/lib}
chmod 1777 "$work/root/tmp"
for program in "${programs[@]}"; do
    strip --strip-debug -o "$work/root/usr/local/bin/$program" "$built/$program"
done
install -m 755 "$etcd" "$work/root/usr/local/bin/etcd"
libraries=$(cd "$built" && ldd "${programs[@]}" | sed -nE 's/^[^/]*(\/[^ ]+) \(0x.*/\1/p' | sort -u)
for library in $libraries; do install -D -m 755 "$library" "$work/root$library"; done
cp "$root/deploy/images/Dockerfile" "$work"
DOCKER_BUILDKIT=0 docker build --quiet --tag "$image" "$work" > /dev/null
echo "$image"
