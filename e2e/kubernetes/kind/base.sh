#!/usr/bin/env bash
# base.sh: prints the path of a tar with the Debian system of a node. Makes it, in three minutes, unless the user's cache has
# one of the same packages; it stays at their versions. Needs root.
set -euo pipefail
# shellcheck source=e2e/kubernetes/kind/fleet.sh
. "$(dirname "$0")/fleet.sh"

packages=(
    systemd systemd-sysv kmod mount procps util-linux iproute2 # a system that boots
    containerd containernetworking-plugins runc                # containers
    conntrack ethtool iptables nftables                        # kubelet, kube-proxy, CNI plugins
    ca-certificates jq                                         # kind's scripts
    busybox                                                    # the test image
)

# shellcheck source=/dev/null
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
tar=$cache/kind-base-$(echo "$suite ${packages[*]}" | sha256sum | cut -c1-16).tar
if [ ! -f "$tar" ]; then
    say "fetching the Debian packages of a node, once (three minutes)"
    work=$(mktemp -d "$cache/kind-work.XXXXXX")
    trap 'rm -rf --one-file-system "$work"' EXIT
    # shellcheck disable=SC2016 # apt-get expands it
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' "Codename: $suite" | sed -n 1p)
    # What debootstrap mounts ends with the mount namespace, however this script ends.
    unshare --mount --propagation private debootstrap --variant=minbase --include="$(IFS=, && echo "${packages[*]}")" \
        "$suite" "$work/system" ${mirror:+"$mirror"} > "$work/log" || { tail -n 20 "$work/log" >&2; exit 1; }
    rm -rf "$work/system"/var/{cache/apt/archives/*.deb,lib/apt/lists/*} "$work/system"/usr/share/{doc,man,locale}/*
    tar --numeric-owner -C "$work/system" -cf "$tar.new" .
    mv "$tar.new" "$tar"
fi
echo "$tar"
