# shellcheck shell=bash disable=SC2154 # fleet.sh has the variables
# To be sourced, after fleet.sh. What stops a fleet is named before anything is installed or built.

limits() { # NEW-NODES CONTROL-PLANES: of the new nodes, so many have a control plane
    local nodes=$1 planes=$2 problems=() need have folder
    [ "$nodes" -gt 0 ] || return 0

    # A node has 27 inotify instances, and a daemon of the mesh one. The processes of all nodes are root's.
    need=$((nodes * 28 + 3))
    have=$(cat /proc/sys/fs/inotify/max_user_instances)
    have=$((have - $( (find /proc/[0-9]*/fd -user root -lname anon_inode:inotify 2> /dev/null || true) | wc -l)))
    if [ "$have" -lt "$need" ]; then
        problems+=("$nodes nodes need $need inotify instances, and $have are free: sysctl -w fs.inotify.max_user_instances=512")
    fi

    need=$((planes * 550 + (nodes - planes) * 150 + 300))
    have=$(($(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo) / 1024))
    if [ "$have" -lt "$need" ]; then
        problems+=("$nodes nodes need $need MiB of memory, and $have MiB are available: end other programs")
    fi

    # 1.1 GB is the node image and 0.8 GB a node. To build the image takes 4 GB more for a while.
    need=$((nodes * 800 + 5000))
    folder=$data
    while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
    have=$(df --output=avail -BM "$folder" | tail -1 | tr -dc 0-9)
    if [ "$have" -lt "$need" ]; then
        problems+=("$nodes nodes need $need MB on disk, and $have MB are free at $folder: free some, or set XDG_CACHE_HOME")
    fi

    if ! grep -qw overlay /proc/filesystems && ! modprobe --dry-run --quiet overlay; then
        problems+=("the kernel has no overlay file system: use one that has CONFIG_OVERLAY_FS")
    fi
    if ! grep -qE ' cgroup2? ' /proc/mounts; then
        problems+=("no cgroups are mounted: mount them, or use a machine with systemd")
    fi
    if [ ! -e "/sys/class/net/$bridge" ] && [ -n "$(ip -4 route show root 172.30.0.0/16)" ]; then
        problems+=("172.30.0.0/16 is in use on this machine (ip route), and the nodes need it")
    fi
    if [ -e /sys/class/net/docker0 ] && ! daemon > /dev/null; then
        problems+=("there is another Docker, and a second dockerd would remove its bridge: use it with plain kind, or stop it
      (systemctl stop docker.service docker.socket; ip link del docker0)")
    fi
    if ! grep -q '^ID=debian$' /etc/os-release; then
        problems+=("nodes are made of packages of Debian, and this is another system")
    fi

    [ "${#problems[@]}" -gt 0 ] || return 0
    printf 'kind: %s\n' "${problems[@]}" >&2
    fail "nothing was built or started"
}
