# shellcheck shell=bash
# To be sourced by a demo. What it says, shows, and checks.

if [ -t 1 ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); else bold='' plain=''; fi
step() { printf '\n%s%s%s\n' "$bold" "$1" "$plain"; }
notice() { printf '  > %s\n' "$*"; }
show() { printf '  $ %s\n' "$*"; "$@" 2>&1 | sed 's/^/    /'; }
fail() { printf '  NOT TRUE: %s\n' "$*" >&2; exit 1; }
