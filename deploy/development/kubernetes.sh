#!/usr/bin/env bash
# kubernetes.sh: prints the path of a folder with kube-apiserver, kube-controller-manager, kubectl and the programs of a
# node, all of the version that e2e/kubernetes/go.mod names. They are links to one binary.
# Builds it if this machine has none of the same go.mod, go.sum and main.go in the user's cache: 18 minutes on two cores.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

module=$here/../../e2e/kubernetes
key=$(cat "$module/go.mod" "$module/go.sum" "$module/main.go" | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/clustermesh
folder=$cache/kubernetes-$key
mkdir -p "$cache"
exec 8>"$folder.lock"
flock 8
if [ ! -x "$folder/kubernetes" ]; then
    full=$(sed -n 's/^.*k8s.io\/kubernetes v//p' "$module/go.mod")
    go=$("$here/go.sh")
    echo "setup: building Kubernetes $full, once (about 18 minutes on two cores)" >&2
    began=$SECONDS
    mkdir -p "$folder"
    minor=${full#*.}
    minor=${minor%%.*}
    of=k8s.io/component-base/version
    # Static: a kind node runs it too, whatever its libc.
    flags="-s -w -linkmode external -extldflags=-static -X $of.gitVersion=v$full -X $of.gitMajor=1 -X $of.gitMinor=$minor"
    flags="$flags -X $of.gitTreeState=clean -X k8s.io/client-go/pkg/version.gitVersion=v$full"
    (cd "$module" && GOTOOLCHAIN=local GOFLAGS="-mod=readonly -buildvcs=false" CGO_ENABLED=1 \
        nice -n 10 "$go" build -trimpath -ldflags="$flags" -o "$folder/kubernetes.new" . 2>&1 |
        { grep -v 'statically linked applications\|/usr/bin/ld: \|# clustermesh' || true; } >&2)
    for program in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubeadm kubectl; do
        ln -sf kubernetes "$folder/$program"
    done
    mv "$folder/kubernetes.new" "$folder/kubernetes"
    echo "setup: Kubernetes $full is built, after $((SECONDS - began)) s" >&2
fi
echo "$folder"
