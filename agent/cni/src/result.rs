//! The result of the plugins before ours in the chain.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    error::CniError,
    excerpt::excerpt,
    json::{invalid, object},
};

/// A result of the plugins before ours, as it was written and as far as it is understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrevResult {
    text: String,
    interfaces: Vec<Interface>,
    addresses: Vec<Address>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Interface {
    name: String,
    /// The network namespace it is in; empty for one on the node.
    #[serde(default)]
    sandbox: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    ip: IpAddr,
    /// The index of its interface in the list, if it is given.
    interface: Option<usize>,
}

/// As it is written. All other fields are ignored.
#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    interfaces: Vec<Interface>,
    #[serde(default)]
    ips: Vec<WrittenAddress>,
}

#[derive(Deserialize)]
struct WrittenAddress {
    address: String,
    #[serde(default)]
    interface: Option<i64>,
}

/// The most interfaces and addresses that a pod may have.
const MAX_ENTRIES: usize = 64;

// === impl PrevResult ===

impl PrevResult {
    pub(crate) fn decode(raw: &RawValue) -> Result<Self, CniError> {
        let written: Written = object(raw.get())
            .map_err(|reason| CniError::Decode(format!("prevResult: {reason}")))?;
        let Written { interfaces, ips } = written;
        for (field, count) in [("interfaces", interfaces.len()), ("ips", ips.len())] {
            if count > MAX_ENTRIES {
                let reason = format!("{count} are more than the {MAX_ENTRIES} that a pod may have");
                return Err(invalid(format!("prevResult.{field}"), reason));
            }
        }
        let address = |(at, written): (usize, &WrittenAddress)| {
            let field = |name: &str| format!("prevResult.ips[{at}].{name}");
            let ip: IpNet = written.address.parse().map_err(|_| {
                let reason = format!("{:?} is no address", excerpt(&written.address));
                invalid(field("address"), reason)
            })?;
            let interface = match written.interface {
                None => None,
                Some(index) => {
                    let found = usize::try_from(index).ok().filter(|at| *at < interfaces.len());
                    Some(found.ok_or_else(|| {
                        let reason = format!("{index} is none of {} interfaces", interfaces.len());
                        invalid(field("interface"), reason)
                    })?)
                }
            };
            Ok(Address { ip: ip.addr(), interface })
        };
        let addresses = ips.iter().enumerate().map(address).collect::<Result<_, _>>()?;
        Ok(Self { text: raw.get().into(), interfaces, addresses })
    }

    /// The result as it was written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The addresses of a pod's interface: those that name it, and those that name none.
    pub(crate) fn addresses_of(&self, interface: &str) -> Vec<IpAddr> {
        let is_of = |address: &&Address| match address.interface {
            None => true,
            Some(at) => {
                let of = self.interfaces.get(at);
                of.is_some_and(|of| of.name == interface && !of.sandbox.is_empty())
            }
        };
        self.addresses.iter().filter(is_of).map(|address| address.ip).collect()
    }
}
