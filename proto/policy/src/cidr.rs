//! Ranges of addresses.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use serde_json::Value;

use crate::{
    path::Path,
    read::{Fields, Reader, quoted},
    rule::CidrRule,
};

/// Whose rules hold for exceptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exceptions {
    /// Smaller than the range itself.
    Kubernetes,
    /// The whole range at most.
    Cilium,
}

// === impl Reader ===

impl Reader<'_> {
    /// The range at a path, its host bits cleared.
    pub(crate) fn cidr(&mut self, value: &Value, path: &Path<'_>) -> Option<IpNet> {
        let text = self.text(value, path)?;
        let range = range(text);
        range.map_err(|reason| self.refuse(path, format!("{}: {reason}", quoted(text)))).ok()
    }

    /// An object with the fields `cidr` and `except`.
    pub(crate) fn cidr_rule(
        &mut self,
        fields: Fields<'_>,
        path: &Path<'_>,
        exceptions: Exceptions,
    ) -> Option<CidrRule> {
        let cidr = self.required(fields, path, "cidr");
        let cidr = cidr.and_then(|value| self.cidr(value, &path.field("cidr")));
        let path = path.field("except");
        let items = fields.get("except").map(|value| self.list(value, &path)).unwrap_or_default();
        let mut except = Vec::new();
        for (at, item) in items.iter().enumerate() {
            let path = path.index(at);
            let Some(range) = self.cidr(item, &path) else { continue };
            let Some(cidr) = cidr else { continue };
            if !cidr.contains(&range) {
                self.refuse(&path, format!("{range} is not within {cidr}"));
            } else if range == cidr && exceptions == Exceptions::Kubernetes {
                self.refuse(&path, format!("{range} must be smaller than the whole range"));
            }
            except.push(range);
        }
        except.sort();
        except.dedup();
        let network_policy = exceptions == Exceptions::Kubernetes;
        Some(CidrRule { cidr: cidr?, except, network_policy })
    }
}

fn range(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        let length = if address.is_ipv4() { 32 } else { 128 };
        return Err(format!("an address needs the length of its prefix: {text}/{length}"));
    }
    let split = text.split_once('/').and_then(|(address, length)| {
        let is_plain = length.bytes().all(|byte| byte.is_ascii_digit())
            && (length == "0" || !length.starts_with('0'));
        let length = length.parse().ok().filter(|_| is_plain)?;
        IpNet::new(address.parse().ok()?, length).ok()
    });
    let range = split.ok_or("it is no range, as 10.0.0.0/8 is one")?;
    // `::ffff:10.0.0.0/104`: the packets that are meant are IPv4.
    let mapped = |address: Ipv6Addr| address.to_ipv4_mapped().is_some();
    match range {
        IpNet::V6(v6) if mapped(v6.addr()) => {
            Err("an IPv4 address in the form of IPv6: write the IPv4 range".into())
        }
        _ => Ok(range.trunc()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (text, wanted) in [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            // Host bits are cleared, as in Kubernetes (it only warns) and in Cilium (`netip.Prefix.Masked`).
            ("10.1.2.3/8", Some("10.0.0.0/8")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("2001:db8::1/32", Some("2001:db8::/32")),
            ("::/0", Some("::/0")),
            // The format `cidr` of the CRD schema asks for a prefix.
            ("10.0.0.1", None),
            ("2001:db8::1", None),
            ("10.0.0.0/33", None),
            ("10.0.0.0/-1", None),
            ("10.0.0.0/08", None),
            ("10.0.0/8", None),
            ("010.0.0.0/8", None),
            ("::ffff:10.0.0.0/104", None),
            ("fe80::1%eth0/64", None),
            ("10.0.0.0/8 ", None),
            ("", None),
        ] {
            let found = range(text).ok().map(|range| range.to_string());
            assert_eq!(found.as_deref(), wanted, "{text:?}");
        }
        let reason = |text| range(text).unwrap_err();
        assert!(reason("10.0.0.1").ends_with("10.0.0.1/32"));
        assert!(reason("::1").ends_with("::1/128"));
    }
}
