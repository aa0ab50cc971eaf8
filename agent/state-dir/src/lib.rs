//! The state that an agent keeps in its state folder for a start that finds nothing else: the last reported state of
//! each cluster ([`Snapshots`]), and the addresses of the etcds ([`EtcdAddresses`]). The format of the files is
//! `mesh-snapshot`'s.

mod etcd_addresses;
mod snapshots;

pub use etcd_addresses::EtcdAddresses;
pub use snapshots::{Content, Snapshots};
