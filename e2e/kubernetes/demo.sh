#!/usr/bin/env bash
# Shows two Kubernetes clusters with one service on this machine: kind clusters, real API servers, kubelets, kube-proxies and
# pods. The demo checks each statement that it prints, and ends with an error if one is not true. KEEP=1 leaves the clusters up.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=e2e/kubernetes/kind/fleet.sh
. "$here/kind/fleet.sh"
export PATH=$root/target/debug:$PATH KUBECONFIG=$state/kubeconfig CLUSTERMESH_CONTEXTS=$state/contexts.yaml
cd "$root"
work=$(mktemp -d)

end() {
    status=$?
    trap - EXIT
    if [ "$status" -ne 0 ]; then
        echo "The demo failed: a statement above is not true on this machine." >&2
        for cluster in a b; do clustermesh status --context "$cluster" >&2 || true; done
    fi
    if [ "${KEEP:-0}" = 1 ]; then
        echo "The clusters stay up. To continue, run:"
        echo "  export PATH=$root/target/debug:$state/bin:\$PATH KUBECONFIG=$state/kubeconfig CLUSTERMESH_CONTEXTS=$state/contexts.yaml"
        echo "  make kind-down    # when done"
    else
        "$here/kind/down.sh" || status=1
    fi
    rm -rf "$work"
    exit "$status"
}
trap end EXIT

# shellcheck source=e2e/demo-steps.sh
. "$root/e2e/demo-steps.sh"

# call COUNT: the client in a calls the service by its name. An answer is a line of JSON.
call() {
    kubectl --context a exec client -- \
        sh -c "for i in \$(seq $1); do busybox timeout 5 wget -qO- http://echo || printf failed; echo; done"
}
# calls COUNT: the same; the answers are in a file, and who answered how often is shown.
calls() {
    call "$1" > "$work/answers"
    if grep -q failed "$work/answers"; then fail "each call is answered"; fi
    jq -r '"pod \(.pod) on node \(.node) of cluster \(.cluster)"' "$work/answers" | sort | uniq -c | sed 's/^/    /'
}
answered_by() { grep -c "\"cluster\":\"$1\"" "$work/answers" || true; }
# until_backends CLUSTER...: waits until a has backends of these clusters only.
until_backends() {
    local found
    for _ in $(seq 300); do
        found=$(clustermesh service show echo --context a --output json |
            jq -r '[.services[0].frontends[].backends[].cluster] | unique | join(" ")')
        if [ "$found" = "$*" ]; then return; fi
        sleep 0.2
    done
    fail "the backends of a are of the clusters $*: they are of ${found:-none}"
}

step "1. Two kind clusters, and the mesh on each: kubectl apply -k"
"$here/mesh/up.sh"
# What an earlier demo left with KEEP=1.
clustermesh disconnect --context a --destination-context b > /dev/null
for cluster in a b; do
    kubectl --context "$cluster" delete --ignore-not-found --wait deployment/echo pod/client > /dev/null
done
for cluster in a b; do
    show kubectl --context "$cluster" get pods --namespace clustermesh-system --output wide
done

step "2. A Deployment and a global Service in each, and a client in a"
for cluster in a b; do
    show kubectl --context "$cluster" apply --filename deploy/examples/echo.yaml
done
show kubectl --context a run client --image clustermesh-test:1 --image-pull-policy Never --restart Never -- sleep 86400
for cluster in a b; do kubectl --context "$cluster" rollout status --timeout 120s deployment/echo > /dev/null; done
kubectl --context a wait --for condition=Ready --timeout 120s pod/client > /dev/null
calls 40
[ "$(answered_by a)" -eq 40 ] || fail "only a answers before the clusters are connected"

step "3. Connect them: keys stay where they are made, and only certificates travel"
show clustermesh connect --context a --destination-context b --wait
for cluster in a b; do show clustermesh status --context "$cluster"; done
until_backends a b
calls 100
for cluster in a b; do [ "$(answered_by "$cluster")" -gt 20 ] || fail "$cluster answers its share"; done
addresses=$(kubectl --context a get pod client --output 'jsonpath={.status.podIPs[*].ip}')
seen=$(jq -r '.client | sub(":[0-9]+$"; "") | gsub("[][]"; "")' "$work/answers" | sort -u)
for address in $seen; do
    [[ " $addresses " = *" $address "* ]] || fail "each pod sees an address of the client ($addresses): one saw $address"
done
notice "each pod saw the client's own address, $seen, also across clusters"

step "4. The pods of a go away while the client calls: those of b answer, and no call fails"
call 400 > "$work/during" &
load=$!
show kubectl --context a scale deployment echo --replicas 0
until_backends b
wait "$load" || fail "the client could call all the time"
failed=$(grep -c failed "$work/during" || true)
notice "$(wc -l < "$work/during") calls, $failed failed"
[ "$failed" -eq 0 ] || fail "no call fails"
calls 40
[ "$(answered_by b)" -eq 40 ] || fail "b answers all calls"

step "5. They come back, and cluster b dies: docker kill"
show kubectl --context a scale deployment echo --replicas 2
until_backends a b
show docker kill b-control-plane
# Each node finds by itself that b does not answer, usually within a second. A call that begins before that waits in vain.
began=$SECONDS
for _ in $(seq 10); do
    call 10 > "$work/answers"
    if [ "$(answered_by a)" -eq 10 ]; then break; fi
done
notice "after $((SECONDS - began)) s no node of a uses b any more"
calls 40
[ "$(answered_by a)" -eq 40 ] || fail "a answers alone"
show docker start b-control-plane
began=$SECONDS failed=0
for _ in $(seq 120); do
    call 20 > "$work/answers"
    lost=$(grep -c failed "$work/answers" || true)
    failed=$((failed + lost))
    if [ "$lost" -eq 0 ] && [ "$(answered_by b)" -gt 0 ]; then break; fi
    sleep 1
done
calls 40
[ "$(answered_by b)" -gt 0 ] || fail "b is back by itself"
notice "b is back by itself, after $((SECONDS - began)) s"
# See docs/kubernetes.md, "If a cluster starts again".
notice "$failed calls failed meanwhile: to pods that were not started again yet, and that Kubernetes still called ready"

step "6. Disconnect"
show clustermesh disconnect --context a --destination-context b
until_backends a
calls 40
[ "$(answered_by a)" -eq 40 ] || fail "only a answers"

echo
echo "Everything that this demo says was true on this machine."
