//! Whether another program balances connections to services on this node.

use std::{io, path::Path, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::timeout,
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

/// Why it matters whether a kube-proxy runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KubeProxyNeed {
    /// It does not.
    #[default]
    None,
    /// It serves what agents that take all services do not.
    Beside,
    /// The local apiserver is away: services may be left to it.
    Fallback,
}

/// Looks for a kube-proxy while it matters whether one runs, and at once when the reason changes.
#[derive(Debug)]
pub struct KubeProxyWatch {
    known: Option<bool>,
    need: watch::Receiver<KubeProxyNeed>,
}

/// How often it is looked for.
const EVERY: Duration = Duration::from_secs(30);

impl KubeProxyWatch {
    /// One that looks while there is a `need`, unless it is `known` whether one runs.
    pub fn new(known: Option<bool>, need: watch::Receiver<KubeProxyNeed>) -> Self {
        Self { known, need }
    }

    /// Looks until its receiver is gone.
    pub async fn run<M: From<FoundKubeProxy>>(mut self, messages: mpsc::Sender<M>) {
        while self.need.wait_for(|need| *need != KubeProxyNeed::None).await.is_ok() {
            let found = match self.known {
                Some(known) => known,
                None => has_kube_proxy().await,
            };
            if messages.send(FoundKubeProxy(found).into()).await.is_err() {
                return;
            }
            let _ = timeout(EVERY, self.need.changed()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_looked_for_again_at_once_when_the_reason_changes() {
        let (need, receiver) = watch::channel(KubeProxyNeed::None);
        let (messages, mut found) = mpsc::channel::<FoundKubeProxy>(1);
        tokio::spawn(KubeProxyWatch::new(Some(true), receiver).run(messages));
        assert!(timeout(EVERY * 3, found.recv()).await.is_err(), "there is no reason");
        let began = Instant::now();
        need.send(KubeProxyNeed::Beside).unwrap();
        assert_eq!(found.recv().await, Some(FoundKubeProxy(true)));
        need.send(KubeProxyNeed::Fallback).unwrap();
        assert_eq!(found.recv().await, Some(FoundKubeProxy(true)));
        assert!(began.elapsed() < EVERY);
        found.recv().await.unwrap();
        assert!(began.elapsed() >= EVERY, "and then every {EVERY:?}");
        need.send(KubeProxyNeed::None).unwrap();
        assert!(timeout(EVERY * 3, found.recv()).await.is_err());
        drop(need);
        assert_eq!(found.recv().await, None);
    }
}
