#!/usr/bin/env bash
# up.sh: brings up the kind clusters that CLUSTERS names ("a b"), and installs the mesh on each with the programs of
# target/$PROFILE (debug). The clusters are not connected yet. A second run replaces what is not of these programs. Needs root.
# All clusters are contexts of $state/kubeconfig, by their names.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=e2e/kubernetes/kind/fleet.sh
. "$here/../kind/fleet.sh"

read -ra chosen <<< "${CLUSTERS:-a b}"
CLUSTERS="${chosen[*]}" "$here/../kind/up.sh" > /dev/null
began=$SECONDS
programs=("$root/target/${PROFILE:-debug}"/clustermesh{,-agent,-apiserver,-cni})
tag=$(cat "${programs[@]}" "$root/deploy/images/"* | sha256sum | cut -c1-12)
image=clustermesh:$tag
if ! docker image inspect "$image" > /dev/null 2>&1; then "$root/deploy/images/build.sh" "$image" > /dev/null; fi
docker tag "$image" clustermesh:dev
system=clustermesh-system

for cluster in "${chosen[@]}"; do
    # It prints much, also if nothing is wrong.
    loaded=$(kind load docker-image --name "$cluster" "$image" clustermesh:dev 2>&1) || fail "cluster $cluster does not take the image: $loaded"
    say "installing the mesh on $cluster"
    # Once more, because a namespace or a kind may not be there at the first attempt.
    manifests=$(of_cluster "$cluster" kustomize "$here/$cluster" | sed "s/image: clustermesh:dev/image: $image/")
    of_cluster "$cluster" apply --filename - <<< "$manifests" > /dev/null 2>&1 ||
        of_cluster "$cluster" apply --filename - <<< "$manifests" > /dev/null
    of_cluster "$cluster" create configmap cluster --namespace default --from-literal=name="$cluster" --dry-run=client --output yaml |
        of_cluster "$cluster" apply --filename - > /dev/null
done
for cluster in "${chosen[@]}"; do
    of_cluster "$cluster" rollout status --namespace "$system" --timeout 120s deployment/clustermesh-apiserver > /dev/null
    of_cluster "$cluster" rollout status --namespace "$system" --timeout 120s daemonset/clustermesh-agent > /dev/null
done

# One kubeconfig for all, with the clusters' names as contexts.
files=()
for cluster in "${chosen[@]}"; do
    sed "s/kind-$cluster/$cluster/" "$state/$cluster.kubeconfig" > "$state/$cluster.context"
    files+=("$state/$cluster.context")
done
KUBECONFIG=$(IFS=:; echo "${files[*]}") kubectl config view --flatten > "$state/kubeconfig"
# Labs on this machine may have clusters of the same names: with this file of contexts, they are not looked at.
echo 'contexts: []' > "$state/contexts.yaml"
say "the mesh is installed, after $((SECONDS - began)) s:"
say "  export KUBECONFIG=$state/kubeconfig CLUSTERMESH_CONTEXTS=$state/contexts.yaml"
