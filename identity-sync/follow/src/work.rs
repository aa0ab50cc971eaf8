//! The cost of decoding what a peer has written.

use mesh_model::Record;

/// The cost since the last call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    /// For what lists brought: what they ask for, the reader decides.
    pub(crate) listed: Cost,
    /// For what watches delivered: that the peer decides.
    pub(crate) watched: Cost,
}

/// A part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Bytes of keys and values, unpacked.
    pub(crate) bytes: u64,
    /// Backends of services and slices.
    pub(crate) backends: u64,
}

/// How many backends a record has: an address with a port each.
pub(crate) fn backends(record: &Record) -> usize {
    match record {
        Record::Service(service) => service.backends.values().map(|ports| ports.len()).sum(),
        Record::EndpointSlice(slice) | Record::LocalEndpointSlice(slice) => {
            let addresses = slice.endpoints.iter().map(|endpoint| endpoint.addresses.len());
            addresses.sum::<usize>() * slice.ports.len()
        }
        _ => 0,
    }
}
