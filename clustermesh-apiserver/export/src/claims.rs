//! Which records other clusters accept: those in this cluster's ranges, because `connect` writes these as grants.

use std::fmt;

use ipnet::IpNet;
use mesh_model::{AddressKind, Record};

/// The ranges of `cluster.yaml`. An empty list means that they are not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrantedRanges {
    /// The ranges of its pods.
    pub pods: Vec<IpNet>,
    /// The ranges of its nodes.
    pub nodes: Vec<IpNet>,
}

impl GrantedRanges {
    /// Why other clusters refuse a record, as a sentence; `None` if they accept it. Backends outside the ranges are not
    /// examined: the peer file of each other cluster decides about them (`externalBackends`).
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
        "{what} is not in {list} of cluster.yaml, so other clusters refuse the record: correct it, or add the range and run `clustermesh connect` again"
    )
}
