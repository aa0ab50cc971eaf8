# shellcheck shell=bash disable=SC2154 # fleet.sh has the variables, and the caller has `image`
# To be sourced, after fleet.sh. One cluster: whether it runs, how it is made, and what is seen working before it counts.

ensure_network() {
    if docker network inspect "$network" > /dev/null 2>&1; then return; fi
    docker network create --driver bridge --opt com.docker.network.bridge.name="$bridge" \
        --subnet 172.30.0.0/16 --gateway 172.30.0.1 \
        --ipv6 --subnet fd00:172:30::/64 --gateway fd00:172:30::ffff "$network" > /dev/null
}

# A kubeconfig exists only of a cluster that was made to the end.
runs() { # CLUSTER
    [ -e "$state/$1.kubeconfig" ] || return 1
    local running
    running=$(docker ps --quiet --filter label=io.x-k8s.kind.cluster="$1" --filter ancestor="$image" | wc -l)
    [ "$running" -eq "$(nodes "$1" | wc -l)" ] && of_cluster "$1" get --raw /readyz --request-timeout=10s > /dev/null 2>&1
}

create() { # CLUSTER
    local began=$SECONDS log=$state/$1.log
    say "creating cluster $1"
    rm -f "$state/$1.kubeconfig"
    if ! {
        kind delete cluster --name "$1" --kubeconfig "$state/$1.kubeconfig.new" &&
            configuration "$1" | kind create cluster --config - --retain \
                --image "$image" --kubeconfig "$state/$1.kubeconfig.new" &&
            run_pods_everywhere "$1" && join_pods "$1"
    } > "$log" 2>&1; then
        tail -n 20 "$log" >&2
        kind export logs "$state/logs/$1" --name "$1" > /dev/null 2>&1 || true
        fail "cluster $1 was not created: $log, and the logs of its nodes in $state/logs/$1. The next kind-up makes it anew"
    fi
    mv "$state/$1.kubeconfig.new" "$state/$1.kubeconfig"
    say "cluster $1 is created, after $((SECONDS - began)) s"
}

# There is one replica of each component, which is not to end because a loaded machine is late to renew its lease.
configuration() { # CLUSTER: kind's, on stdout
    local n
    n=$(number "$1")
    cat << EOF
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
name: $1
networking:
  ipFamily: dual
  disableDefaultCNI: true
  podSubnet: 10.$n.0.0/16,fd00:10:$n::/48
  serviceSubnet: 10.$((100 + n)).0.0/16,fd00:100:$n::/112
  kubeProxyMode: nftables
kubeadmConfigPatches:
- |
  kind: ClusterConfiguration
  controllerManager: { extraArgs: [{ name: leader-elect, value: "false" }] }
  scheduler: { extraArgs: [{ name: leader-elect, value: "false" }] }
- |
  kind: KubeletConfiguration
  failCgroupV1: false
$(sync_frequency "$1")
nodes:
EOF
    nodes "$1" | sed 's/.*-control-plane$/- role: control-plane/; s/.*-worker$/- role: worker/'
}

# Kubelets of c update mounted Secrets as seldom as they do by default, others more often.
sync_frequency() { # CLUSTER: the line of the kubelets' configuration
    if [ "$1" != c ]; then echo "  syncFrequency: 5s"; fi
}

# A control plane that is the only node runs pods anyway.
run_pods_everywhere() { # CLUSTER
    [ "$(nodes "$1" | wc -l)" -eq 1 ] ||
        kubectl --kubeconfig "$state/$1.kubeconfig.new" taint node "$1-control-plane" node-role.kubernetes.io/control-plane-
}

# The cluster's own pod network, as a network plugin makes it: a bridge on each node, routes to the pods of the cluster's other
# nodes, and masquerading of what leaves the cluster. Nothing leads to the pods of other clusters.
join_pods() { # CLUSTER
    local n node peer address ranges
    local -A pods
    n=$(number "$1")
    for node in $(nodes "$1"); do
        pods[$node]=$(ranges_of "$1" "$node") || return 1
    done
    for node in $(nodes "$1"); do
        # shellcheck disable=SC2086 # two words
        ranges=$(jq -nc --args '[$ARGS.positional[] | [{ subnet: . }]]' ${pods[$node]})
        docker exec -i "$node" sh -euc 'cat > /etc/cni/net.d/10-bridge.conflist' << EOF || return 1
{ "cniVersion": "1.0.0", "name": "pods", "plugins": [
  { "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
    "ipam": { "type": "host-local", "ranges": $ranges, "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }] } },
  { "type": "portmap", "capabilities": { "portMappings": true } } ] }
EOF
        {
            echo "iptables -w -t nat -I POSTROUTING -s 10.$n.0.0/16 -d 10.$n.0.0/16 -j ACCEPT"
            echo "ip6tables -w -t nat -I POSTROUTING -s fd00:10:$n::/48 -d fd00:10:$n::/48 -j ACCEPT"
            for peer in $(nodes "$1"); do
                if [ "$peer" = "$node" ]; then continue; fi
                read -ra address <<< "$(awk -v node="$peer" '$1 == node { print $2, $3 }' "$state/addresses")"
                for range in ${pods[$peer]}; do
                    case $range in
                        *:*) echo "ip -6 route replace $range via ${address[1]}" ;;
                        *) echo "ip route replace $range via ${address[0]}" ;;
                    esac
                done
            done
        } | docker exec -i "$node" sh -euc 'cat > /kind/pod-network && systemctl start pod-network' || return 1
    done
}

ranges_of() { # CLUSTER NODE: the node's pod ranges, as soon as the cluster has given it some
    local tries ranges
    for ((tries = 0; tries < 300; tries++)); do
        ranges=$(kubectl --kubeconfig "$state/$1.kubeconfig.new" get node "$2" -o 'jsonpath={.spec.podCIDRs[*]}') || true
        if [ "$(wc -w <<< "$ranges")" -eq 2 ]; then echo "$ranges"; return; fi
        sleep 0.2
    done
    echo "node $2 has no pod ranges of both families: $ranges"
    return 1
}

# All nodes are Ready, CoreDNS runs, and a pod of the first node reaches one of the last by the name and by both addresses of its
# service, with an own address that nothing changes.
check() { # CLUSTER
    local cluster=$1 first last own host answer
    first=$(nodes "$1" | sed -n 1p) last=$(nodes "$1" | tail -1)
    of_cluster "$1" wait node --all --for condition=Ready --timeout 180s > /dev/null || no "a node is not Ready" || return
    of_cluster "$1" -n kube-system rollout status deployment/coredns --timeout 180s > /dev/null ||
        no "CoreDNS does not run" || return
    of_cluster "$1" delete pod,service -l smoke > /dev/null 2>&1 || no "objects of an earlier check stay" || return
    smoke_objects "$first" "$last" | of_cluster "$1" apply -f - > /dev/null || no "objects are not taken" || return
    of_cluster "$1" wait pod -l smoke --for condition=Ready --timeout 120s > /dev/null || no "pods do not start" || return
    own=" $(of_cluster "$1" get pod smoke-client -o 'jsonpath={.status.podIPs[*].ip}') "
    for host in smoke-server $(of_cluster "$1" get service smoke-server -o 'jsonpath={.spec.clusterIPs[*]}'); do
        case $host in *:*) host="[$host]" ;; esac
        answer=$(of_cluster "$1" exec smoke-client -- \
            timeout 60 sh -c "until timeout 5 wget -qO- http://$host/cgi-bin/source; do sleep 0.2; done" 2> /dev/null) ||
            no "a pod on $first gets no answer from the service $host, whose pod is on $last" || return
        answer=$(tr -d '[]' <<< "$answer")
        [[ $own = *" ${answer#::ffff:} "* ]] || no "a pod on $last sees $answer as the client, and it is$own" || return
    done
    of_cluster "$1" delete pod,service -l smoke --wait=false > /dev/null 2>&1 || true
    say "cluster $1: all nodes are Ready, CoreDNS runs, and services answer from $first to $last"
}

no() { say "cluster $cluster: $*" && return 1; } # WHY, said by `check`

smoke_objects() { # CLIENT-NODE SERVER-NODE
    cat << EOF
apiVersion: v1
kind: Service
metadata: { name: smoke-server, labels: { smoke: server } }
spec:
  ipFamilyPolicy: RequireDualStack
  selector: { smoke: server }
  ports: [{ port: 80 }]
---
apiVersion: v1
kind: Pod
metadata: { name: smoke-server, labels: { smoke: server } }
spec:
  nodeName: $2
  terminationGracePeriodSeconds: 0
  containers: [{ name: server, image: "$test_image" }]
---
apiVersion: v1
kind: Pod
metadata: { name: smoke-client, labels: { smoke: client } }
spec:
  nodeName: $1
  terminationGracePeriodSeconds: 0
  containers: [{ name: client, image: "$test_image", command: [sleep, infinity] }]
EOF
}
