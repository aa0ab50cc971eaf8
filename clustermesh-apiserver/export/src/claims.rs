//! What other clusters take of this one: what is in its own ranges, for these are what `connect` has them grant.

use std::fmt;

use ipnet::IpNet;
use mesh_model::{AddressKind, Record};

/// The ranges of `cluster.yaml`; where a list is empty nothing is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrantedRanges {
    /// Where its pods may be.
    pub pods: Vec<IpNet>,
    /// Where its nodes may be.
    pub nodes: Vec<IpNet>,
}

impl GrantedRanges {
    /// What other clusters refuse of a record, as a sentence. Backends that are neither pods nor nodes are not looked at: whether
    /// they are taken is each peer's to say (`externalBackends`).
    pub(crate) fn refused(&self, record: &Record) -> Option<String> {
        let within = |ranges: &[IpNet], net: &IpNet| {
            ranges.is_empty() || ranges.iter().any(|range| range.contains(net))
        };
        match record {
            Record::Node(node) => {
                let pods = node.pod_cidrs.iter().find(|net| !within(&self.pods, net));
                let mut addresses =
                    node.addresses.iter().filter(|a| a.kind == AddressKind::Internal);
                let address = addresses.find(|a| !within(&self.nodes, &IpNet::from(a.ip)));
                let pods = pods.map(|net| sentence(net, "podCIDRs"));
                pods.or_else(|| address.map(|address| sentence(address.ip, "nodeCIDRs")))
            }
            Record::Address(address) => {
                let net = &address.net;
                let known = within(&self.pods, net) || within(&self.nodes, net);
                (!known).then(|| sentence(net, "podCIDRs"))
            }
            _ => None,
        }
    }
}

fn sentence(what: impl fmt::Display, list: &str) -> String {
    format!(
        "{what} is not in {list} of cluster.yaml, and other clusters refuse the record: mend it, or add the range and connect anew"
    )
}
