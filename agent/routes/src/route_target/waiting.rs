//! Ranges whose route could not be made, found by their next hop.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

#[derive(Debug, Default)]
pub(super) struct Waiting {
    by_next_hop: BTreeMap<IpAddr, BTreeSet<IpNet>>,
    by_range: BTreeMap<IpNet, IpAddr>,
}

// === impl Waiting ===

impl Waiting {
    /// A range waits for this next hop, or does not wait.
    pub(super) fn set(&mut self, range: IpNet, via: Option<IpAddr>) {
        let before = match via {
            Some(via) => self.by_range.insert(range, via),
            None => self.by_range.remove(&range),
        };
        if before == via {
            return;
        }
        if let Some(before) = before
            && let Some(ranges) = self.by_next_hop.get_mut(&before)
        {
            ranges.remove(&range);
            if ranges.is_empty() {
                self.by_next_hop.remove(&before);
            }
        }
        if let Some(via) = via {
            self.by_next_hop.entry(via).or_default().insert(range);
        }
    }

    /// Ranges whose next hop is in a network: costs what it finds.
    pub(super) fn on_link(&self, network: &IpNet) -> impl Iterator<Item = IpNet> {
        let (first, last) = (network.network(), network.broadcast());
        self.by_next_hop.range(first..=last).flat_map(|(_, ranges)| ranges).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_a_network_that_covers_their_next_hop() {
        let mut waiting = Waiting::default();
        let net = |text: &str| -> IpNet { text.parse().unwrap() };
        let mut set = |range: &str, via: Option<&str>| {
            waiting.set(net(range), via.map(|via| via.parse().unwrap()));
        };
        set("10.2.1.0/24", Some("172.31.2.1"));
        set("10.2.2.0/24", Some("172.31.2.1"));
        set("10.3.1.0/24", Some("172.31.3.1"));
        set("fd00:10:3::/64", Some("fd00:172::3"));
        set("10.2.2.0/24", Some("172.31.9.1"));
        set("10.4.0.0/24", Some("172.31.2.1"));
        set("10.4.0.0/24", None);
        let found = |network: &str| {
            waiting.on_link(&net(network)).map(|net| net.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(found("172.31.2.0/24"), ["10.2.1.0/24"]);
        assert_eq!(found("172.31.0.0/16"), ["10.2.1.0/24", "10.3.1.0/24", "10.2.2.0/24"]);
        assert_eq!(found("172.31.9.1/32"), ["10.2.2.0/24"]);
        assert_eq!(found("0.0.0.0/0").len(), 3);
        assert_eq!(found("::/0"), ["fd00:10:3::/64"]);
        assert!(found("10.2.0.0/16").is_empty());
    }
}
