#!/usr/bin/env bash
# Removes the fleet, the dockerd that kind-up started, and all that it leaves on the machine. What was built stays in the cache:
# docs/kind.md. Needs root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=e2e/kubernetes/kind/fleet.sh
. "$here/fleet.sh"
# shellcheck source=e2e/kubernetes/kind/daemon.sh
. "$here/daemon.sh"

lock
if ! daemon > /dev/null && compgen -G "$data/containers/?*" > /dev/null; then
    # It died: its clusters are removed by another one, which knows their parts.
    (start_daemon) || say "what its data has of clusters is not removed"
elif daemon > /dev/null; then
    say "removing all clusters"
    remove_containers
fi
stop_daemon
sweep
rm -rf "$state"
say "the fleet is gone. $cache/kind-* and the other files there stay, so that the next kind-up is short"
