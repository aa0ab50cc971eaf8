#!/usr/bin/env bash
# Measures the figures of docs/performance.md on the kind clusters a and b, and writes them to OUT (target/figures-kind) and into
# the tables of the document INTO. Arguments are those of kind_figures. The programs in the clusters are those of
# target/$PROFILE (debug). Needs root.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"

if [ "${KEEP:-0}" != 1 ]; then trap e2e/kubernetes/kind/down.sh EXIT; fi
out=${OUT:-target/figures-kind}
mkdir -p "$out"
target/debug/kind_figures "$@" > "$out/kind.json.new"
mv "$out/kind.json.new" "$out/kind.json"
# It names each table of the document that other benchmarks fill.
target/debug/clustermesh bench report ${INTO:+--into "$INTO"} "$out/kind.json" > "$out/kind.md" 2> "$out/report.log" ||
    { cat "$out/report.log" >&2; exit 1; }
echo "figures: in $out/kind.json and kind.md${INTO:+, and in $INTO}" >&2
