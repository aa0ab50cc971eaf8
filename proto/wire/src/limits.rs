//! How long a text and how large a value of a peer may be (`docs/wire.md`, "Limits").
//!
//! The limits are Kubernetes' own, so nothing that an API server took is refused. They bound what a record takes in
//! memory, whatever a peer writes: each part of it has a limit, and so has their number.

use std::collections::BTreeMap;

use mesh_model::{
    EndpointSlice, Labels,
    service::{SERVICE_NAME_LABEL, SlicePort},
};

use crate::error::DecodeError;

/// A limit, and what it is of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    what: &'static str,
    most: usize,
}

const fn limit(what: &'static str, most: usize) -> Limit {
    Limit { what, most }
}

/// An object's name: a DNS subdomain (Kubernetes, "Object Names and IDs").
pub(crate) const NAME: Limit = limit("bytes in a name", 253);
/// A port's name: a DNS label (Kubernetes API, ServicePort and EndpointPort).
pub(crate) const PORT_NAME: Limit = limit("bytes in a port's name", 63);
/// A zone: the value of a node's label `topology.kubernetes.io/zone`.
pub(crate) const ZONE: Limit = limit("bytes in a zone's name", 63);
/// A label's or annotation's key: a DNS subdomain, a slash and 63 bytes. Cilium writes up to 31 before it
/// (`io.cilium.k8s.namespace.labels.`).
pub(crate) const LABEL_KEY: Limit = limit("bytes in a label's key", 253 + 1 + 63 + 31);
/// A label's value.
pub(crate) const LABEL_VALUE: Limit = limit("bytes in a label's value", 63);
/// A label's value in an identity: the name of a service account is among these.
pub(crate) const IDENTITY_VALUE: Limit = limit("bytes in a label's value", 253);
/// All annotations of an object together, and so each of them.
pub(crate) const ANNOTATION_VALUE: Limit = limit("bytes in an annotation", 256 * 1024);
/// A word of a few that are known, and what later versions may add to them.
pub(crate) const WORD: Limit = limit("bytes in a word", 253);
/// The labels of an identity: more than a pod's, its namespace's and Kubernetes' own limits can add up to in earnest.
pub(crate) const IDENTITY: Limit = limit("bytes of labels", 64 * 1024);
/// The value of an address or a pod.
pub(crate) const SMALL_VALUE: Limit = limit("bytes in a value", 64 * 1024);
/// The value of a node, whose annotations may have 256 KiB, or of a namespace.
pub(crate) const NODE_VALUE: Limit = limit("bytes in a node or namespace", 1024 * 1024);
/// The value of a service, or what a slice unpacks to. etcd itself takes no more than 1.5 MiB by default.
pub(crate) const SERVICE_VALUE: Limit = limit("bytes in a service or slice", 4 * 1024 * 1024);
/// A node's pod ranges, each of which may become a route, and its addresses.
pub(crate) const NODE_RANGES: Limit = limit("ranges or addresses of a node", 64);
/// Endpoints of a slice, and each other repeated field of it (Kubernetes API, EndpointSlice). Two bytes of protobuf make
/// a hundred of ours, so they are counted before they are decoded.
pub(crate) const REPEATED: Limit = limit("repeated fields", 1_000);
/// Addresses of an endpoint, and its hints (Kubernetes API, Endpoint).
pub(crate) const PER_ENDPOINT: Limit = limit("addresses or hints of an endpoint", 100);
/// Backends of a slice: 1,000 endpoints with 100 ports each are the most that Kubernetes takes.
pub(crate) const SLICE_BACKENDS: Limit = limit("backends in a slice", 100_000);
/// Kinds of a position.
pub(crate) const POSITION_KINDS: Limit = limit("kinds in a position", 16);
/// Named ports of an address.
pub(crate) const NAMED_PORTS: Limit = limit("named ports of an address", 1_000);

// === impl Limit ===

impl Limit {
    /// Checks a number.
    pub(crate) fn check(self, found: usize) -> Result<(), DecodeError> {
        let Self { what, most } = self;
        if found <= most { Ok(()) } else { Err(DecodeError::TooLarge { what, limit: most }) }
    }

    /// Checks a text.
    pub(crate) fn text(self, text: &str) -> Result<(), DecodeError> {
        self.check(text.len())
    }

    /// Checks texts.
    pub(crate) fn texts<'a>(
        self,
        texts: impl IntoIterator<Item = &'a String>,
    ) -> Result<(), DecodeError> {
        texts.into_iter().try_for_each(|text| self.text(text))
    }

    /// How much is allowed.
    pub(crate) fn most(self) -> usize {
        self.most
    }
}

/// Checks labels, or a selector.
pub(crate) fn labels(labels: &BTreeMap<String, String>) -> Result<(), DecodeError> {
    LABEL_KEY.texts(labels.keys())?;
    labels.iter().try_for_each(|(key, value)| {
        // An object's name, which ours checks as such.
        if key == SERVICE_NAME_LABEL { NAME.text(value) } else { LABEL_VALUE.text(value) }
    })
}

/// Checks annotations.
pub(crate) fn annotations(annotations: &BTreeMap<String, String>) -> Result<(), DecodeError> {
    LABEL_KEY.texts(annotations.keys())?;
    ANNOTATION_VALUE.texts(annotations.values())
}

/// Checks the labels of an identity.
pub(crate) fn identity_labels(labels: &Labels) -> Result<(), DecodeError> {
    labels.iter().try_for_each(|(source, key, value)| {
        NAME.text(source)?;
        LABEL_KEY.text(key)?;
        IDENTITY_VALUE.text(value)
    })
}

/// Checks an endpoint slice, of whichever form.
pub(crate) fn slice(slice: &EndpointSlice) -> Result<(), DecodeError> {
    labels(&slice.labels)?;
    annotations(&slice.annotations)?;
    REPEATED.check(slice.endpoints.len())?;
    REPEATED.check(slice.ports.len())?;
    let mut addresses = 0;
    for endpoint in &slice.endpoints {
        PER_ENDPOINT.check(endpoint.addresses.len())?;
        PER_ENDPOINT.check(endpoint.for_zones.len())?;
        PER_ENDPOINT.check(endpoint.for_nodes.len())?;
        let names = endpoint.hostname.iter().chain(&endpoint.node);
        NAME.texts(names.chain(&endpoint.for_nodes))?;
        ZONE.texts(endpoint.zone.iter().chain(&endpoint.for_zones))?;
        addresses += endpoint.addresses.len();
    }
    SLICE_BACKENDS.check(addresses * slice.ports.len())?;
    slice.ports.iter().try_for_each(|SlicePort { name, protocol, app_protocol, .. }| {
        PORT_NAME.texts(name)?;
        WORD.texts(protocol)?;
        LABEL_KEY.texts(app_protocol)
    })
}
