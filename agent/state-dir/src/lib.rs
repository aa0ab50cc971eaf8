//! What an agent keeps in its state folder for a start that finds nothing else: what each cluster reported last
//! ([`Snapshots`]), and where the etcds were ([`EtcdAddresses`]). The form of the files is `mesh-snapshot`'s.

mod etcd_addresses;
mod snapshots;

pub use etcd_addresses::EtcdAddresses;
pub use snapshots::Snapshots;
