# shellcheck shell=bash disable=SC2154 # fleet.sh has the variables
# To be sourced, after fleet.sh. The fleet's own dockerd: another one on the machine is neither used nor changed.

# The process id of the fleet's dockerd, if it runs. A process that only has the id of an old one is not it.
daemon() {
    local id
    id=$(cat "$state/dockerd.pid" 2>/dev/null) && grep -qzF "$state/daemon.json" "/proc/$id/cmdline" 2>/dev/null && echo "$id"
}

# A dockerd that had to be started has no clusters: what its data still has of earlier ones is removed.
start_daemon() {
    mkdir -p "$state/bin"
    install -m 755 -t "$state/bin" "$root/e2e/kubernetes/kind/docker" "$root/e2e/kubernetes/kind/runtime"
    addresses > "$state/addresses"
    if daemon > /dev/null; then
        if timeout 20 docker version > /dev/null 2>&1; then return; fi
        say "dockerd does not answer: it is ended, and its clusters with it"
    fi
    sweep
    say "starting dockerd"
    if ! run_daemon; then
        say "dockerd does not start: $(tail -n 1 "$state/dockerd.log")"
        say "its data may be damaged: it is removed, with the image of nodes, and made anew"
        sweep
        rm -rf --one-file-system "$data"
        run_daemon || fail "dockerd does not start. Its log: $state/dockerd.log"
    fi
    remove_containers
}

run_daemon() {
    local id deadline
    mkdir -p "$data"
    rm -f "$state"/*.kubeconfig
    # No packet of a node leaves this machine, and no name is looked up outside: nothing is forwarded, and there is no name
    # server at the address that the nodes have for one. Docker's rules for iptables would serve nothing.
    jq -n --arg state "$state" --arg data "$data" --arg cgroup "$cgroup" '{
        "data-root": $data, "exec-root": "\($state)/exec", "pidfile": "\($state)/dockerd.pid",
        "hosts": ["unix://\($state)/docker.sock"], "deprecated-key-path": "\($state)/key.json",
        "storage-driver": "overlay2", "cgroup-parent": "/\($cgroup)", "containerd-namespace": $cgroup,
        "bridge": "none", "ip-forward": false, "iptables": false, "dns": ["127.0.0.1"],
        "default-runtime": "held", "runtimes": { "held": { "path": "\($state)/bin/runtime" } }
    }' > "$state/daemon.json"
    setsid dockerd --config-file "$state/daemon.json" > "$state/dockerd.log" 2>&1 < /dev/null 7>&- &
    id=$!
    deadline=$((SECONDS + 60))
    until docker version > /dev/null 2>&1; do
        if ! kill -0 "$id" 2> /dev/null || [ "$SECONDS" -ge "$deadline" ]; then return 1; fi
        sleep 0.2
    done
}

# All containers with their volumes, and the network.
remove_containers() {
    local all
    mapfile -t all < <(docker ps --all --quiet)
    if [ "${#all[@]}" -gt 0 ]; then docker rm --force --volumes "${all[@]}" > /dev/null; fi
    docker volume prune --force > /dev/null
    docker network ls --filter name="^$network\$" --quiet | xargs --no-run-if-empty docker network rm > /dev/null
}

stop_daemon() {
    local id
    id=$(daemon) || return 0
    say "stopping dockerd"
    kill "$id"
    timeout 30 tail --pid="$id" -f /dev/null || say "dockerd does not end by itself"
}

# Whatever a dockerd left, whether it ended as it should or not: its processes, those of its nodes, cgroups, mounts, links.
sweep() {
    local entry id tries
    for entry in /proc/[0-9]*; do
        id=${entry#/proc/}
        case $(cat "$entry/comm" 2>/dev/null) in
            dockerd | containerd | containerd-shim*)
                if grep -qaF "$state/" "$entry/cmdline" 2>/dev/null; then kill -KILL "$id" 2>/dev/null || true; fi ;;
        esac
    done
    for ((tries = 0; tries < 100; tries++)); do
        fleet_cgroups -name cgroup.procs -exec cat {} + | sort -u | xargs --no-run-if-empty kill -KILL || true
        fleet_cgroups -depth -type d -exec rmdir {} + || true
        if [ -z "$(fleet_cgroups -type d)" ]; then break; fi
        sleep 0.1
    done 2>/dev/null
    awk -v state="$state/" -v data="$data/" 'index($2 "/", state) == 1 || index($2 "/", data) == 1 { print $2 }' /proc/mounts |
        tac | while read -r point; do umount --lazy "$point"; done
    # The namespace of a killed node lives until its last connection has ended, and would keep its end of the link.
    for entry in "/sys/class/net/$bridge/lower_"*; do
        if [ -e "$entry" ]; then ip link del "${entry##*/lower_}"; fi
    done
    if [ -e "/sys/class/net/$bridge" ]; then ip link del "$bridge"; fi
    rm -rf "$state/exec" "$state/dockerd.pid" "$state/docker.sock"
    # Folders that Docker and containerd make outside of those that they are given, if no other program has anything in them.
    rmdir /run/docker/{plugins,} /run/containerd/{s,} /opt/containerd/{bin,lib,} 2> /dev/null || true
}

fleet_cgroups() { # FIND-ARGUMENT...: what find finds in the fleet's cgroup, in all hierarchies
    local found
    mapfile -t found < <(awk '$3 ~ /^cgroup2?$/ { print $2 }' /proc/mounts | sed "s,\$,/$cgroup," | while read -r path; do
        if [ -d "$path" ]; then echo "$path"; fi
    done)
    if [ "${#found[@]}" -gt 0 ]; then find "${found[@]}" "$@"; fi
}
