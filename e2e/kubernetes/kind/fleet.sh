# shellcheck shell=bash disable=SC2034 # the scripts that source it use the variables
# To be sourced. What the fleet consists of, and where its parts are.
# Cluster N has the pods 10.N.0.0/16 and fd00:10:N::/48, the services 10.(100+N).0.0/16 and fd00:100:N::/112, and its node J is
# 172.30.N.J and fd00:172:30::N:J. These are the ranges of labs.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
# Sockets, kubeconfigs and logs of the running fleet. `make kind-down` removes it.
state=${CLUSTERMESH_KIND:-/run/clustermesh-kind}
# What is built once, and Docker's images in `kind-docker`. It stays.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/clustermesh
data=$cache/kind-docker
# One network joins the nodes of all clusters. Its bridge, and the cgroup of all nodes, are removed by these names.
network=clustermesh
bridge=clustermesh0
cgroup=clustermesh-kind
test_image=clustermesh-test:1
clusters=(a b c)
# Docker's client for this fleet, and kind, which looks for `docker` in PATH. kubectl keeps its notes in the fleet's folder.
export KUBECACHEDIR=$state/kubectl
export PATH=$state/bin:$PATH KIND_EXPERIMENTAL_PROVIDER=docker KIND_EXPERIMENTAL_DOCKER_NETWORK=$network

say() { echo "kind: $*" >&2; }
fail() { say "$*"; exit 1; }

number() { echo $(($(printf %d "'$1") - 96)); } # CLUSTER: 1 for a

nodes() { # CLUSTER: the names that kind gives its nodes
    echo "$1-control-plane"
    if [ "$1" = a ]; then echo "$1-worker"; fi
}

addresses() { # all nodes of the fleet: NAME IPV4 IPV6
    local cluster node position
    for cluster in "${clusters[@]}"; do
        position=0
        for node in $(nodes "$cluster"); do
            position=$((position + 1))
            echo "$node 172.30.$(number "$cluster").$position fd00:172:30::$(number "$cluster"):$position"
        done
    done
}

of_cluster() { kubectl --kubeconfig "$state/$1.kubeconfig" "${@:2}"; } # CLUSTER ARGUMENT...

# Only one kind-up or kind-down at a time. A daemon that is started must not inherit descriptor 7.
lock() {
    [ "$(id -u)" -eq 0 ] || fail "Docker and nodes need root: run it as root"
    mkdir -p "$cache"
    exec 7>"$cache/kind.lock"
    flock --nonblock 7 || fail "another kind-up or kind-down is running"
}
