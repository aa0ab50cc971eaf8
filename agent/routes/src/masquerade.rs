//! Keeping other people's masquerade away from the mesh's packets.
//!
//! Most CNIs rewrite the source of what leaves the cluster to the node's address. Between clusters of a mesh that would
//! hide who is calling. A table of ours, before theirs, claims packets from our pods to other clusters' with a rewrite
//! that changes nothing: the first chain that decides about a connection's source is the one that counts.

use std::{
    fmt::Write as _,
    io,
    process::{Output, Stdio},
};

use ipnet::IpNet;
use tokio::{io::AsyncWriteExt as _, process::Command};

/// The table, and what is in it.
#[derive(Debug, Default)]
pub struct Masquerade {
    applied: Option<String>,
}

/// Why the table is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum MasqueradeError {
    /// nft cannot be run.
    #[error("nft cannot be run: {0}. Install the package nftables")]
    Run(io::Error),
    /// nft refuses.
    #[error("nft: {0}")]
    Refused(String),
}

/// The table's name, in families `ip` and `ip6`.
const TABLE: &str = "clustermesh";

impl Masquerade {
    /// Lets packets from `pods` to `mesh` keep their source. Does nothing where that is so already.
    pub async fn apply(&mut self, pods: &[IpNet], mesh: &[IpNet]) -> Result<(), MasqueradeError> {
        let rules = rules(pods, mesh);
        if self.applied.as_ref() == Some(&rules) {
            return Ok(());
        }
        nft(&rules).await?;
        self.applied = Some(rules);
        Ok(())
    }
}

/// The whole table as nft reads it, in one transaction. The chain stays and only what is in it is exchanged: where one
/// chain goes and another comes, packets are seen that meet neither.
fn rules(pods: &[IpNet], mesh: &[IpNet]) -> String {
    let mut text = String::new();
    for (family, kind, v4) in [("ip", "ipv4_addr", true), ("ip6", "ipv6_addr", false)] {
        let [pods, mesh] = [pods, mesh].map(|ranges| elements(ranges, v4));
        if pods.is_empty() || mesh.is_empty() {
            // Added first, so that there is something to delete.
            let _ = writeln!(text, "table {family} {TABLE} {{}}\ndelete table {family} {TABLE}");
            continue;
        }
        let _ = writeln!(
            text,
            "table {family} {TABLE} {{
  set pods {{ type {kind}; flags interval; }}
  set mesh {{ type {kind}; flags interval; }}
  chain postrouting {{ type nat hook postrouting priority srcnat - 5; }}
}}
flush chain {family} {TABLE} postrouting
flush set {family} {TABLE} pods
flush set {family} {TABLE} mesh
add element {family} {TABLE} pods {{ {pods} }}
add element {family} {TABLE} mesh {{ {mesh} }}
add rule {family} {TABLE} postrouting {family} saddr @pods {family} daddr @mesh snat to {family} saddr"
        );
    }
    text
}

/// A family's ranges as a set's elements. Neighbours are one range: nft refuses overlaps.
fn elements(ranges: &[IpNet], v4: bool) -> String {
    let of_family = ranges.iter().filter(|range| range.addr().is_ipv4() == v4).copied().collect();
    let joined: Vec<String> = IpNet::aggregate(&of_family).iter().map(IpNet::to_string).collect();
    joined.join(", ")
}

async fn nft(rules: &str) -> Result<(), MasqueradeError> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().map_err(MasqueradeError::Run)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules.as_bytes()).await.map_err(MasqueradeError::Run)?;
    }
    let Output { status, stderr, .. } =
        child.wait_with_output().await.map_err(MasqueradeError::Run)?;
    if status.success() {
        return Ok(());
    }
    Err(MasqueradeError::Refused(String::from_utf8_lossy(&stderr).trim().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_each_with_joined_ranges() {
        let nets = |texts: &[&str]| -> Vec<IpNet> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let pods = nets(&["10.1.0.0/16", "fd00:10:1::/48"]);
        let mesh = nets(&["10.2.1.0/24", "10.2.0.0/24", "10.3.0.0/24", "10.3.0.0/25"]);
        let text = rules(&pods, &mesh);
        assert!(text.contains("clustermesh mesh { 10.2.0.0/23, 10.3.0.0/24 }"), "{text}");
        assert!(!text.contains("delete table ip clustermesh"), "the chain stays: {text}");
        assert!(text.contains("ip saddr @pods ip daddr @mesh snat to ip saddr"), "{text}");
        // Without a range on both sides there is nothing to keep away.
        assert!(
            text.contains("delete table ip6 clustermesh") && !text.contains("ip6 saddr"),
            "{text}"
        );
    }
}
