#!/usr/bin/env bash
# Brings up the fleet: the kind clusters that CLUSTERS names ("a b c"). Those that run as they should stay as they are; what is
# broken or half made is made anew. With CHECK=1 it only says what stops it, if anything does. What it needs and what it leaves:
# docs/kind.md. Needs root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=e2e/kubernetes/kind/fleet.sh
. "$here/fleet.sh"
# shellcheck source=e2e/kubernetes/kind/limits.sh
. "$here/limits.sh"
# shellcheck source=e2e/kubernetes/kind/daemon.sh
. "$here/daemon.sh"
# shellcheck source=e2e/kubernetes/kind/cluster.sh
. "$here/cluster.sh"

read -ra chosen <<< "${CLUSTERS:-${clusters[*]}}"
for cluster in "${chosen[@]}"; do
    [[ " ${clusters[*]} " = *" $cluster "* ]] || fail "there is no cluster $cluster: CLUSTERS chooses of ${clusters[*]}"
done
lock
began=$SECONDS

new_nodes=0 new_planes=0
for cluster in "${chosen[@]}"; do
    if daemon > /dev/null && [ -e "$state/$cluster.kubeconfig" ]; then continue; fi
    new_nodes=$((new_nodes + $(nodes "$cluster" | wc -l)))
    new_planes=$((new_planes + 1))
done
limits "$new_nodes" "$new_planes"
if [ "${CHECK:-0}" = 1 ]; then exit; fi

"$root/deploy/development/setup.sh" kind
rm -rf --one-file-system "$cache"/kind-work.*
start_daemon
kind=$("$root/deploy/development/go-program.sh" "$here/kind" kind)
kubernetes=$("$root/deploy/development/kubernetes.sh")
ln -sf "$kind" "$state/bin/kind"
ln -sf "$kubernetes/kubectl" "$state/bin/kubectl"
image=$("$here/image.sh")
ensure_network
new=()
for cluster in "${chosen[@]}"; do
    if ! runs "$cluster" || ! check "$cluster"; then
        create "$cluster"
        new+=("$cluster")
    fi
done
for cluster in "${new[@]}"; do check "$cluster" || fail "cluster $cluster does not work. The next kind-up makes it anew"; done
# Older images go, except one that a cluster still runs on.
docker image ls --quiet --filter reference=clustermesh-node --filter before="$image" |
    xargs --no-run-if-empty docker image rm --force > /dev/null 2>&1 || true
docker image prune --force > /dev/null
say "the fleet is up, after $((SECONDS - began)) s"

row() { printf '%-8s %-6s %-30s %-34s %s\n' "$@"; }
row CLUSTER NODES PODS SERVICES KUBECONFIG
for cluster in "${chosen[@]}"; do
    n=$(number "$cluster")
    row "$cluster" "$(nodes "$cluster" | wc -l)" "10.$n.0.0/16 fd00:10:$n::/48" "10.$((100 + n)).0.0/16 fd00:100:$n::/112" \
        "$state/$cluster.kubeconfig"
done
echo
echo "For kubectl, kind and docker: export PATH=$state/bin:\$PATH. To remove all of it: make kind-down"
