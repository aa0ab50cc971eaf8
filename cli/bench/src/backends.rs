//! The backends of the measured services. Each service has two, which no other service has, so that tables, rules and caches
//! are as full as in a real cluster.

use std::net::Ipv4Addr;

/// Their addresses: shared address space (RFC 6598), which the clients here use for nothing else.
pub(crate) const RANGE: &str = "100.64.0.0/10";
/// The first address.
pub(crate) const FIRST: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
/// The backends of a service.
pub(crate) const EACH: u32 = 2;

/// The backends of one service.
pub(crate) fn backends(service: u32) -> [Ipv4Addr; EACH as usize] {
    let first = FIRST.to_bits() + EACH * service;
    [0, 1].map(|n| Ipv4Addr::from_bits(first + n))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The most services that can be requested.
    const MOST: u32 = 1_000_000;

    #[test]
    fn no_two_services_share_one() {
        let first: BTreeSet<Ipv4Addr> = (0..1_000).flat_map(backends).collect();
        assert_eq!(first.len(), 2_000);
        assert_eq!(backends(7)[1].to_bits() + 1, backends(8)[0].to_bits());
        assert_eq!(backends(MOST - 1)[1].octets()[0], 100, "all lie in the range");
        assert!(backends(MOST - 1)[1] <= Ipv4Addr::new(100, 127, 255, 255));
    }
}
