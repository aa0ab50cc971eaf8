#!/usr/bin/env bash
# image.sh: prints the name of the image of a node, as Docker has it. Makes it, and the programs in it, unless Docker has one of
# the same parts. Needs root and the fleet's dockerd.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=e2e/kubernetes/kind/fleet.sh
. "$here/fleet.sh"
development=$root/deploy/development

kubernetes=$("$development/kubernetes.sh")
etcd=$("$development/etcd.sh" 3.6)
coredns=$("$development/go-program.sh" "$here/coredns" coredns)
base=$("$here/base.sh")
key=$({
    printf '%s\n' "${kubernetes##*/}" "${etcd##*/}" "${coredns##*/}" "${base##*/}"
    cat "$here/image.sh" "$here/kind/go.mod" "$here"/node/*
} | sha256sum | cut -c1-16)
image=clustermesh-node:$key
if docker image inspect "$image" "$test_image" > /dev/null 2>&1; then
    echo "$image"
    exit
fi

say "making the image of a node"
began=$SECONDS
work=$(mktemp -d "$cache/kind-work.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
system=$work/system
mkdir "$system"
tar --numeric-owner -C "$system" -xf "$base"
version=v$(sed -n 's/^.*k8s.io\/kubernetes v//p' "$root/e2e/kubernetes/go.mod")

# Images. One has the programs of Kubernetes, etcd and what kube-proxy runs; kubeadm gives them different names.

# shellcheck disable=SC2016 # the shell in the node's system expands it
chroot "$system" bash -euc '
    programs=(/bin/busybox /usr/sbin/nft /usr/sbin/xtables-nft-multi /usr/lib/*/xtables/*.so)
    libraries=$(ldd "${programs[@]}" | sed -n "s/.*[[:space:]]\(\/[^ ]*\) (.*/\1/p" | sort -u)
    mkdir /tools
    cp -L --parents "${programs[@]}" $libraries /tools'
mv "$system/tools" "$work/tools"
tools=$work/tools
mkdir -p "$tools"/{tmp,root,run,proc,sys,dev,etc,www/cgi-bin,usr/local/bin}
for applet in $(chroot "$tools" /bin/busybox --list); do [ -e "$tools/bin/$applet" ] || ln -s busybox "$tools/bin/$applet"; done
for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
    ln -s xtables-nft-multi "$tools/usr/sbin/$name"
done
echo 'root:x:0:0:root:/root:/bin/sh' > "$tools/etc/passwd"
echo 'hosts: files dns' > "$tools/etc/nsswitch.conf"
# The answer of the test image's web server is the address that it was asked from.
cat > "$tools/www/cgi-bin/source" << 'EOF'
#!/bin/sh
printf 'Content-Type: text/plain\n\n%s\n' "$REMOTE_ADDR"
EOF
chmod 755 "$tools/www/cgi-bin/source"

import() { # FOLDER NAME CHANGE...
    local folder=$1 name=$2 changes=()
    shift 2
    for change in "$@"; do changes+=(--change "$change"); done
    tar --owner=0 --group=0 -C "$folder" -c . | docker import "${changes[@]}" - "$name" > /dev/null
}
search='ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
import "$tools" "$test_image" "$search" 'CMD ["/bin/httpd", "-f", "-h", "/www"]'

install -m 755 "$kubernetes/kubernetes" "$etcd" "$tools/usr/local/bin"
mv "$tools/usr/local/bin/${etcd##*/}" "$tools/usr/local/bin/etcd"
for program in kube-apiserver kube-controller-manager kube-scheduler kube-proxy; do
    ln -s kubernetes "$tools/usr/local/bin/$program"
done
import "$tools" clustermesh-kubernetes "$search"
mkdir "$work/pause" "$work/coredns"
gcc -static -Os -s -Wall -Werror -o "$work/pause/pause" "$here/node/pause.c"
install -m 755 "$coredns" "$work/coredns/coredns"

names=("$test_image")
wanted=$("$kubernetes/kubeadm" config images list --kubernetes-version "$version")
for name in $wanted; do
    case $name in
        */pause:*) import "$work/pause" "$name" 'ENTRYPOINT ["/pause"]' && pause=$name ;;
        */coredns:*) import "$work/coredns" "$name" 'ENTRYPOINT ["/coredns"]' ;;
        *) docker tag clustermesh-kubernetes "$name" ;;
    esac
    names+=("$name")
done

# The node: kind's files for its own image, as its Dockerfile places them, and what differs here.
kind=$(cd "$here/kind" && GOTOOLCHAIN=local "$("$development/go.sh")" mod download -json sigs.k8s.io/kind | jq -r .Dir)
cp -r --no-preserve=mode "$kind/images/base/files/." "$system"
chmod 755 "$system"/usr/local/bin/* "$system"/kind/bin/*
install -m 755 "$here/node/entrypoint" "$system/usr/local/bin/node-entrypoint"
install -m 644 "$here/node/pod-network.service" "$system/etc/systemd/system"
mkdir -p "$system/opt/cni/bin" "$system/etc/cni/net.d" "$system/etc/kubernetes/manifests" "$system/kind/manifests"
cp "$system"/usr/lib/cni/* "$system/opt/cni/bin"
install -m 755 "$kubernetes/kubernetes" "$system/usr/bin"
for program in kubeadm kubectl kubelet; do ln -s kubernetes "$system/usr/bin/$program"; done
printf %s "$version" > "$system/kind/version"
# A machine that lacks CAP_SYS_RESOURCE cannot raise limits, nor lower the score of a process for the out-of-memory killer.
sed -i -e 's#/usr/local/bin/containerd#/usr/bin/containerd#' -e '/^Limit/d; /^OOMScoreAdjust/d; /modprobe/d' \
    "$system/etc/systemd/system/containerd.service"
sed -i -e 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' -e "s#sandbox_image = .*#sandbox_image = \"$pause\"#" \
    -e '/proxy_plugins/d; /type = "snapshot"/d; /address = /d' "$system/etc/containerd/config.toml"
rm -f "$system/etc/systemd/system/containerd-fuse-overlayfs.service"
rm -rf "$system"/etc/systemd/system/*.wants "$system"/lib/systemd/system/{multi-user,local-fs,basic}.target.wants/* \
    "$system"/lib/systemd/system/sockets.target.wants/*{udev,initctl}* \
    "$system"/lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service
echo 'ReadKMsg=no' >> "$system/etc/systemd/journald.conf"
chroot "$system" systemctl --quiet enable containerd kubelet pod-network undo-mount-hacks
# Their work concerns the whole machine, or terminals that a node does not have.
chroot "$system" systemctl --quiet mask \
    {systemd-{sysctl,binfmt,modules-load,udevd,udev-trigger,logind},console-getty,modprobe@}.service \
    sys-kernel-{debug,tracing}.mount getty.target
chroot "$system" ctr oci spec |
    jq 'del(.process.rlimits) | .hooks.createContainer += [{ path: "/kind/bin/mount-product-files.sh" }]' \
        > "$system/etc/containerd/cri-base.json"

# The images go into the store of the node's containerd. It runs in namespaces of its own: they end with it.
docker save --output "$system/images.tar" "${names[@]}"
docker image rm clustermesh-kubernetes "${names[@]:1}" > /dev/null
install -m 755 "$here/node/import-images" "$system"
# shellcheck disable=SC2016 # the shell in the new namespaces expands it
unshare --mount --propagation private --pid --fork --kill-child bash -euc '
    mount -t proc proc "$1/proc"
    mount --rbind /sys "$1/sys"
    exec chroot "$1" /import-images' bash "$system"
rm -rf --one-file-system "$system"/{images.tar,import-images,tmp/*}

tar --numeric-owner -C "$system" -c . | docker import --change 'ENV container=docker' \
    --change 'ENTRYPOINT ["/usr/local/bin/node-entrypoint", "/sbin/init"]' - "$image" > /dev/null
say "$image is made, after $((SECONDS - began)) s"
echo "$image"
