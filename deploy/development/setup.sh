#!/usr/bin/env bash
# Installs the missing Debian packages that this repository needs, and the cargo tools named as arguments. With the argument
# `kind`, it installs what kind clusters need, and nothing else.
# If nothing is missing, it does nothing and needs no network.
set -euo pipefail

tools=("$@")
packages=(
    g++ libc6-dev                                                # linking, libFuzzer
    libstd-rust-web-dev-bpf rustc-web cargo-web llvm-22-dev      # kernel programs
    rust-web-clippy rustfmt-web                                  # their lints
    protobuf-compiler libprotobuf-dev                            # etcd's API
    etcd-server etcd-client containernetworking-plugins          # a lab's clusters
    iproute2 nftables procps bpftool                             # a lab's nodes
    curl faketime git libfaketime openssl                        # tests
    prometheus                                                   # promtool, for alert rules
)

if [ "$*" = kind ]; then
    packages=(
        docker.io debootstrap iproute2 jq libcap2-bin       # nodes, as containers
        gcc libc6-dev                                       # the image `pause`
    )
fi

missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "setup: installing ${missing[*]}" >&2
    if [ "$(id -u)" -ne 0 ]; then
        echo "setup: that needs root. Run: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    # Without this policy, etcd's package would start a server.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod 755 "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >&2
fi
if [ "$*" = kind ]; then exit; fi

# shellcheck source=deploy/development/cargo.sh
. "$(dirname "$0")/cargo.sh"
install() { # COMMAND PACKAGE VERSION [FLAG...]
    local command=$1 package=$2 version=$3
    shift 3
    if ! command -v "$command" >/dev/null; then
        echo "setup: building $package $version, once" >&2
        cargo install --quiet --locked "$package" --version "$version" "$@"
    fi
}
for tool in bpf-linker "${tools[@]}"; do
    case $tool in
        bpf-linker)
            LLVM_SYS_221_PREFIX=/usr/lib/llvm-22 LLVM_PREFIX=/usr/lib/llvm-22 \
                install bpf-linker bpf-linker 0.13.0 --no-default-features --features llvm-22 ;;
        cargo-deny)
            install cargo-deny cargo-deny 0.20.2
            # It also checks the dependencies for other systems, without network: they must be fetched before.
            root=$(dirname "$0")/../..
            (cd "$root" && { cargo fetch --quiet --locked --offline 2>/dev/null || cargo fetch --quiet --locked; }) ;;
        cargo-fuzz) install cargo-fuzz cargo-fuzz 0.13.2 ;;
        *) echo "setup: $tool is not known" >&2; exit 1 ;;
    esac
done
