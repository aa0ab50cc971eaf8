//! etcd over mutual TLS: making the connection, following, writing, users.
//!
//! Architecture invariant: this is the only crate that knows `etcd-client`. All others use key ranges, keys and values.

mod addresses;
mod batch;
mod connect;
mod credential_rotation;
mod driver;
mod error;
mod status;
mod store;
mod users;
mod validity;
mod watching;

pub use addresses::LastAddresses;
pub use batch::Batch;
pub use connect::{Target, connect, connect_privately};
pub use credential_rotation::{CredentialRotation, connect_again, succession};
pub use driver::{Channels, follow};
pub use error::EtcdError;
pub use status::EtcdStatus;
pub use store::{Connection, Op};
pub use users::{Permission, Users};
pub use watching::Watching;
