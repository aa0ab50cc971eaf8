#!/usr/bin/env bash
# Measures the figures of docs/performance.md: runs each benchmark RUNS times (5), and the long ones LONG_RUNS times (2). With
# SMALL=1, all run with small sizes, to see that they work. The output of each run and the figures of all are written to OUT
# (target/figures), and into the tables of the document INTO. If a benchmark fails, the others still run, and the script names
# it at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

runs=${RUNS:-5}
long=${LONG_RUNS:-2}
out=${OUT:-target/figures}
PATH=${BIN:-$PWD/target/release}:$(deploy/development/kubernetes.sh):$PATH

# The number of runs, and the arguments of `clustermesh bench`.
if [ -n "${SMALL:-}" ]; then
    all=(
        "$runs connect --services 10,50 --rules-up-to 10 --rounds 3 --batch 10"
        "$runs export --pods 30,300 --rounds 1"
        "$runs fill --services 2000"
        "$runs change --backends 10,150 --rounds 1 --batch 4"
        "$runs memory"
        "$runs policy --identities 1000 --policies 100 --cidrs 500 --rounds 20"
        "$runs judge --addresses 1000 --packets 1000 --rounds 3"
        "$runs source --pods 100,1000 --changes 100"
        "$runs reconnect --endpoints 500"
        "$runs events --readers 2 --rounds 1 --turns 1"
        "$runs cni --rounds 2"
        "$runs propagation --samples 10 --services 0,5"
        "$long takeover --rounds 2 --services 5"
        "$long cut --rounds 1"
        "$long endpoints --endpoints 500 --budget 16 --rounds 2"
        "$long mesh --real 10 --replayed 10 --nodes 3 --endpoints 12 --services 4 --rates 0,50 --changes 40 --seconds 1"
    )
else
    all=(
        "$runs connect"
        "$runs export"
        "$runs fill"
        "$runs change"
        "$runs memory"
        "$runs policy"
        "$runs judge"
        "$runs source"
        "$runs reconnect"
        "$runs events"
        "$runs cni"
        "$runs propagation"
        "$long takeover"
        "$long cut"
        "$long endpoints"
        "$long mesh --changes 1000 --picture docs/growth.svg"
    )
fi

mkdir -p "$out"
rm -f "$out"/*.json "$out"/*.log "$out"/figures.md
count=0 done=0 failed=()
for one in "${all[@]}"; do count=$((count + ${one%% *})); done
for one in "${all[@]}"; do
    read -ra words <<< "$one"
    name=${words[1]}
    for ((run = 1; run <= words[0]; run++)); do
        done=$((done + 1))
        began=$SECONDS
        echo -n "figures: $name, run $run of ${words[0]} ($done of $count): " >&2
        file=$out/$name-$run
        # A benchmark that fails late has already printed some tables, which are kept.
        etcd=()
        # A kube-apiserver needs a later one than Debian's.
        if [ "$name" = source ]; then etcd=("CLUSTERMESH_LAB_ETCD=$(deploy/development/etcd.sh 3.6)"); fi
        if env "${etcd[@]}" clustermesh bench --output json "${words[@]:1}" > "$file.json" 2> "$file.log"; then
            echo "$((SECONDS - began)) s" >&2
            rm -f "$file.log"
        else
            echo "FAILED after $((SECONDS - began)) s: $(tail -n 1 "$file.log")" >&2
            failed+=("$name-$run")
            grep -q '"kind": *"Bench"' "$file.json" || rm -f "$file.json"
        fi
    done
done

measured=("$out"/*-*.json)
if [ -e "${measured[0]}" ]; then
    clustermesh bench report --output json ${INTO:+--into "$INTO"} "${measured[@]}" > "$out/figures.json"
    clustermesh bench report "${measured[@]}" > "$out/figures.md"
    echo "figures: in $out/figures.json and figures.md${INTO:+, and in $INTO}" >&2
fi
if [ ${#failed[@]} -gt 0 ]; then
    echo "figures: ${#failed[@]} of $count failed: ${failed[*]}; why is in $out/*.log" >&2
    exit 1
fi
