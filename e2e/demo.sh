#!/usr/bin/env bash
# Shows two clusters with one service on this machine, with real etcds, mutual TLS and eBPF in the running kernel.
# The demo checks each statement that it prints, and ends with an error if one is not true. KEEP=1 leaves the lab up.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
bin=${BIN:-$root/target/debug}
export PATH=$bin:$PATH CLUSTERMESH_LAB=demo
export CLUSTERMESH_CONTEXTS=/run/clustermesh-lab/$CLUSTERMESH_LAB/contexts.yaml
cd "$root"
work=$(mktemp -d)
load=

if [ "$(id -u)" -ne 0 ]; then
    echo "The demo creates network namespaces and loads eBPF programs: run it as root." >&2
    exit 1
fi

end() {
    status=$?
    trap - EXIT
    if [ -n "$load" ]; then kill "$load" 2>/dev/null || true; fi
    if [ "$status" -ne 0 ]; then
        echo "The demo failed: a statement above is not true on this machine." >&2
        clustermesh status >&2 || true
    fi
    if [ "${KEEP:-0}" = 1 ]; then
        echo "The lab stays up. To continue, run:"
        echo "  export PATH=$bin:\$PATH CLUSTERMESH_LAB=$CLUSTERMESH_LAB CLUSTERMESH_CONTEXTS=$CLUSTERMESH_CONTEXTS"
        echo "  clustermesh lab down    # when done"
    else
        clustermesh lab down >/dev/null || status=1
    fi
    rm -rf "$work"
    exit "$status"
}
trap end EXIT

# shellcheck source=e2e/demo-steps.sh
. "$root/e2e/demo-steps.sh"

# calls COUNT: calls the service from the client's pod, and shows which pods answered.
calls() {
    clustermesh lab exec a/client -- clustermesh lab-pod call "$vip:80" --count "$1" > "$work/answers"
    sed -E 's/.*(pod [^,]*, node [^,]*, cluster [^;]*);.*/\1/' "$work/answers" | sort | uniq -c | sed 's/^/    /'
}
answered_by() { grep -c "cluster $1;" "$work/answers" || true; }
# backends COUNT CLUSTER: waits until the client's cluster uses COUNT backends of CLUSTER.
backends() {
    for _ in $(seq 100); do
        clustermesh service show echo --context a --output json > "$work/service"
        found=$(clustermesh service show echo --context a | awk -v cluster="$2" '$2 == cluster' | wc -l)
        if [ "$found" -eq "$(($1 * 4))" ]; then return; fi # two families, two protocols
        sleep 0.1
    done
    fail "the client's cluster has $(($1 * 4)) entries for backends of cluster $2: it has $found"
}

clustermesh lab down >/dev/null
step "1. Two clusters, a and b, in network namespaces. Each has two nodes with an agent, an etcd and an apiserver."
show clustermesh lab up
show clustermesh lab status

step "2. The clusters are connected: each gets a certificate for the etcd of the other. No private key leaves its cluster."
show clustermesh connect --context a --destination-context b
clustermesh status --wait >/dev/null

step "3. The global service echo has two pods in each cluster. A client runs in cluster a."
show clustermesh lab apply --cluster a --file "deploy/examples/echo.yaml"
show clustermesh lab apply --cluster b --file "deploy/examples/echo.yaml"
show clustermesh lab apply --cluster a --file "deploy/examples/client.yaml"
backends 2 a
backends 2 b
vip=$(sed -n 's/.*"address": "\(10\.101\.[^"]*\)".*/\1/p' "$work/service" | head -1)
notice "In cluster a, the service has the address $vip, which no network interface has."

step "4. The client calls it 40 times."
calls 40
if [ "$(answered_by a)" -eq 0 ] || [ "$(answered_by b)" -eq 0 ]; then fail "both clusters answer"; fi
client=$(sed -n 's/.*it saw \([0-9.]*\):.*/\1/p' "$work/answers" | sort -u)
notice "Both clusters answered. All pods saw the client's address, $client: nothing in between changes it."
if [ "$(wc -l <<< "$client")" -ne 1 ]; then fail "one client address is seen"; fi

step "5. Cluster a loses its pods of the service."
show clustermesh lab apply --cluster a --file "deploy/examples/echo.yaml" --replicas 0
backends 0 a
calls 20
if [ "$(answered_by b)" -ne 20 ]; then fail "cluster b answers every call"; fi
notice "Cluster b answers every call."
show clustermesh lab apply --cluster a --file "deploy/examples/echo.yaml" --replicas 2
backends 2 a
calls 40
if [ "$(answered_by a)" -eq 0 ]; then fail "cluster a answers again"; fi
notice "Cluster a is back, and answers its share."

step "6. Under load, the agents of cluster a and the apiserver and etcd of cluster b are killed and not started again yet."
clustermesh lab exec a/client -- clustermesh lab-pod load --tcp "$vip:80" --udp "$vip:80" --rate 500 --flows 50 \
    > "$work/load" & load=$!
sleep 1
for process in a/n1/agent a/n2/agent b/apiserver b/etcd; do show clustermesh lab stop --kill "$process"; done
if clustermesh status > "$work/status"; then fail "clustermesh status reports problems"; fi
sed 's/^/    /' "$work/status"
sleep 2
calls 40
if [ "$(answered_by a)" -eq 0 ] || [ "$(answered_by b)" -eq 0 ]; then fail "both clusters still answer"; fi
notice "Both clusters still answer: the tables are in the kernel, and connections do not need the control plane."

step "7. All daemons are started again."
for process in b/etcd b/apiserver a/n1/agent a/n2/agent; do show clustermesh lab start "$process"; done
show clustermesh status --wait
sleep 1
kill -TERM "$load"
wait "$load" || true
load=
sed 's/^/    /' "$work/load"
grep -q ', failed 0 in' "$work/load" || fail "no request failed"
notice "Through all of this, no request failed."

step "8. The service now, as each node of cluster a has it."
show clustermesh service list --context a
