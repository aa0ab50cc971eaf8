//! Whether somebody else leads connections to services on this node.

use std::{path::Path, process::Stdio};

use tokio::process::Command;

/// The link that kube-proxy makes in IPVS mode, below `/sys/class/net`.
const IPVS: &str = "/sys/class/net/kube-ipvs0";
/// Its table in nftables mode, and its chain in iptables mode.
const TABLE: &str = "kube-proxy";
const CHAIN: &str = "KUBE-SERVICES";

/// Whether a kube-proxy has left its rules here: its nftables, its chains of iptables (those that nft sees, which are not
/// the ones of `iptables-legacy`), or its IPVS link. Where nft cannot be run none is seen.
pub async fn has_kube_proxy() -> bool {
    if Path::new(IPVS).exists() {
        return true;
    }
    let tables = nft(&["list", "tables"]).await.unwrap_or_default();
    if is_listed(&tables) {
        return true;
    }
    for family in ["ip", "ip6"] {
        if nft(&["list", "chain", family, "nat", CHAIN]).await.is_some() {
            return true;
        }
    }
    false
}

/// Whether `nft list tables` has kube-proxy's.
fn is_listed(tables: &str) -> bool {
    tables.lines().any(|line| line.split(' ').nth(2) == Some(TABLE))
}

/// What nft says, if it does as asked.
async fn nft(args: &[&str]) -> Option<String> {
    let mut command = Command::new("nft");
    command.args(args).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_table_is_known_by_its_whole_name() {
        assert!(is_listed("table inet filter\ntable ip kube-proxy\n"));
        assert!(is_listed("table ip6 kube-proxy\n"));
        assert!(!is_listed("table ip kube-proxy-of-another\ntable ip clustermesh\n"));
        assert!(!is_listed(""));
    }
}
