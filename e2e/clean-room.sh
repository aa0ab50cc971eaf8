#!/usr/bin/env bash
# Runs a command as on a new machine: without a BPF file system, without /run/netns and what earlier labs left in /run, and in
# a new cgroup namespace, as in a container. Needs root. When the command has ended, nothing of the room is left.
#   e2e/clean-room.sh COMMAND [ARGUMENT...]
set -euo pipefail

if [ "$(id -u)" -ne 0 ]; then
    echo "clean-room: it creates namespaces and mounts: run it as root" >&2
    exit 1
fi
cgroups=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
if [ -z "$cgroups" ]; then
    echo "clean-room: no cgroup2 is mounted. Mount it: mount -t cgroup2 none /sys/fs/cgroup/unified" >&2
    exit 1
fi

# The root of the room's cgroup namespace is a new cgroup, which is removed with the room. The next room removes that of a
# killed one.
for left in "$cgroups"/clustermesh-clean-room-*; do
    if [ -d "$left" ] && [ ! -e "/proc/${left##*-}" ]; then
        find "$left" -depth -type d -exec rmdir {} + || true
    fi
done
room=$cgroups/clustermesh-clean-room-$$
before=$(sed -n 's/^0:://p' /proc/self/cgroup)
leave() {
    echo $$ > "$cgroups$before/cgroup.procs"
    find "$room" -depth -type d -exec rmdir {} +
}
mkdir "$room"
trap leave EXIT
echo $$ > "$room/cgroup.procs"

# shellcheck disable=SC2016 # the shell in the room expands it
unshare --mount --cgroup --propagation private bash -euc '
    cgroups=$1
    shift
    awk "\$3 == \"bpf\" { print \$2 }" /proc/mounts | tac | while read -r point; do umount --lazy "$point"; done
    umount --lazy "$cgroups"
    mount -t cgroup2 none "$cgroups"
    # A new /run with all entries of the old one except those of labs and `ip netns`.
    old=$(mktemp -d)
    mount --bind /run "$old"
    mount -t tmpfs -o mode=755 none /run
    for entry in "$old"/* "$old"/.[!.]*; do
        name=${entry##*/}
        case $name in netns | clustermesh-lab | "*" | ".[!.]*") continue ;; esac
        if [ -L "$entry" ]; then
            cp --no-dereference "$entry" "/run/$name"
        elif [ -d "$entry" ]; then
            mkdir --parents "/run/$name"
            mount --rbind "$entry" "/run/$name"
        else
            touch "/run/$name"
            mount --bind "$entry" "/run/$name"
        fi
    done
    umount --lazy "$old"
    rmdir "$old"
    exec "$@"
' bash "$cgroups" "$@"
