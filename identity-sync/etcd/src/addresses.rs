//! The addresses at which etcds were last reached: for a node that starts where no name server answers.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// The last good addresses of hosts, shared by all connections.
#[derive(Clone, Debug, Default)]
pub struct LastAddresses {
    by_host: Arc<Mutex<BTreeMap<String, Vec<IpAddr>>>>,
}

impl LastAddresses {
    /// Those of a previous run.
    pub fn new(by_host: BTreeMap<String, Vec<IpAddr>>) -> Self {
        Self { by_host: Arc::new(Mutex::new(by_host)) }
    }

    /// All of them, to be kept.
    pub fn all(&self) -> BTreeMap<String, Vec<IpAddr>> {
        self.by_host.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where a host was.
    pub(crate) fn of(&self, host: &str) -> Vec<IpAddr> {
        let by_host = self.by_host.lock().unwrap_or_else(PoisonError::into_inner);
        by_host.get(host).cloned().unwrap_or_default()
    }

    /// A host was reached: it is at one of these. An address is no name, and needs no name server.
    pub(crate) fn reached(&self, host: &str, addresses: &[IpAddr]) {
        if host.parse::<IpAddr>().is_err() {
            let mut by_host = self.by_host.lock().unwrap_or_else(PoisonError::into_inner);
            by_host.insert(host.to_owned(), addresses.to_vec());
        }
    }
}
