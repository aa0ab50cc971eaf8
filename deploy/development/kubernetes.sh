#!/usr/bin/env bash
# kubernetes.sh: prints the path of a folder with kube-apiserver, kube-controller-manager, kubectl and the programs of a
# node, all of the version that e2e/kubernetes/go.mod names. They are links to one binary, which go-program.sh builds.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

module=$here/../../e2e/kubernetes
full=$(sed -n 's/^.*k8s.io\/kubernetes v//p' "$module/go.mod")
minor=${full#*.}
minor=${minor%%.*}
of=k8s.io/component-base/version
# Static with cgo: a kind node runs it too, whatever its libc.
flags="-linkmode external -extldflags=-static -X $of.gitVersion=v$full -X $of.gitMajor=1 -X $of.gitMinor=$minor"
flags="$flags -X $of.gitTreeState=clean -X k8s.io/client-go/pkg/version.gitVersion=v$full"
# The linker warns of names that libc would look up in files.
binary=$(CGO_ENABLED=1 "$here/go-program.sh" "$module" "kubernetes-1.$minor" "$flags" "about 18 minutes on two cores" \
    2> >(grep -v 'statically linked applications\|/usr/bin/ld: \|# clustermesh' >&2))
folder=$binary.links
mkdir -p "$folder"
for program in kubernetes kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubeadm kubectl; do
    [ -e "$folder/$program" ] || ln -sfn "$binary" "$folder/$program"
done
echo "$folder"
