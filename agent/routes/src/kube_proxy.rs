//! Whether another program balances connections to services on this node.

use std::{io, path::Path, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

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

/// Whether a kube-proxy was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundKubeProxy(pub bool);

/// Looks for a kube-proxy while it matters whether one runs.
#[derive(Debug)]
pub struct KubeProxyWatch {
    known: Option<bool>,
    needed: watch::Receiver<bool>,
}

/// How often it is looked for.
const EVERY: Duration = Duration::from_secs(30);

impl KubeProxyWatch {
    /// One that looks while it is `needed`, unless it is `known` whether one runs.
    pub fn new(known: Option<bool>, needed: watch::Receiver<bool>) -> Self {
        Self { known, needed }
    }

    /// Looks until its receiver is gone.
    pub async fn run<M: From<FoundKubeProxy>>(mut self, messages: mpsc::Sender<M>) {
        while self.needed.wait_for(|needed| *needed).await.is_ok() {
            let found = match self.known {
                Some(known) => known,
                None => has_kube_proxy().await,
            };
            if messages.send(FoundKubeProxy(found).into()).await.is_err() {
                return;
            }
            sleep(EVERY).await;
        }
    }
}
