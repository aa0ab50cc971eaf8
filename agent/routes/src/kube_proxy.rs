//! Whether another program leads connections to services on this node.

use std::{io, path::Path};

use crate::nftables::{Family, Nftables};

/// The link that kube-proxy makes in IPVS mode, below `/sys/class/net`.
const IPVS: &str = "/sys/class/net/kube-ipvs0";
/// Its table in nftables mode, and table and chain in iptables mode.
const TABLE: &str = "kube-proxy";
const NAT: &str = "nat";
const CHAIN: &str = "KUBE-SERVICES";

/// Whether a kube-proxy has left its rules here: its nftables, its chains of iptables (those that nftables has, which are not
/// the ones of `iptables-legacy`), or its IPVS link. Where the kernel has no nftables none is seen. Looks from a thread that
/// may block, in the network namespace of the process.
pub async fn has_kube_proxy() -> bool {
    let look = || has_kube_proxy_here().unwrap_or(false);
    tokio::task::spawn_blocking(look).await.unwrap_or(false)
}

/// The same in the network namespace of this thread, which may block.
///
/// # Errors
/// Where the kernel has no nftables.
pub fn has_kube_proxy_here() -> io::Result<bool> {
    let mut nftables = Nftables::open()?;
    Ok(Path::new(IPVS).exists()
        || nftables.has_table(TABLE)?
        || nftables.has_chain(Family::V4, NAT, CHAIN)?
        || nftables.has_chain(Family::V6, NAT, CHAIN)?)
}
