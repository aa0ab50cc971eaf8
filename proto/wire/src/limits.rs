//! Limits on the length of texts and the size of values (`docs/wire.md`, "Limits").
//!
//! The limits are those of Kubernetes, so no object that an API server accepted is refused. They bound the memory of a
//! record: each part has a limit, and so has the number of parts.

use std::collections::BTreeMap;

use mesh_model::{
    EndpointSlice, Labels, LocalPolicy,
    service::{SERVICE_NAME_LABEL, SlicePort},
};

use crate::error::DecodeError;

/// A limit, and what it limits, with the unit.
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
/// An annotation. Kubernetes limits all annotations of an object together to this size.
pub(crate) const ANNOTATION_VALUE: Limit = limit("bytes in an annotation", 256 * 1024);
/// A value of an enumeration, to which later versions may add values.
pub(crate) const WORD: Limit = limit("bytes in a word", 253);
/// All labels of an identity: more than the labels of a pod and its namespace have in practice.
pub(crate) const IDENTITY: Limit = limit("bytes of labels", 64 * 1024);
/// The value of an address or a pod.
pub(crate) const SMALL_VALUE: Limit = limit("bytes in a value", 64 * 1024);
/// The value of a node, whose annotations may have 256 KiB, or of a namespace.
pub(crate) const NODE_VALUE: Limit = limit("bytes in a node or namespace", 1024 * 1024);
/// The value of a service, or a slice's decompressed value. By default, etcd accepts values of at most 1.5 MiB.
pub(crate) const SERVICE_VALUE: Limit = limit("bytes in a service or slice", 4 * 1024 * 1024);
/// The pod ranges of a node, each of which may become a route; and its addresses.
pub(crate) const NODE_RANGES: Limit = limit("ranges or addresses of a node", 64);
/// The endpoints of a slice, and each other repeated field (Kubernetes API, EndpointSlice). They are counted before they are
/// decoded, because two bytes of protobuf become a hundred bytes in memory.
pub(crate) const REPEATED: Limit = limit("repeated fields", 1_000);
/// The addresses of an endpoint, and its hints (Kubernetes API, Endpoint).
pub(crate) const PER_ENDPOINT: Limit = limit("addresses or hints of an endpoint", 100);
/// The backends of a slice: Kubernetes accepts at most 1,000 endpoints with 100 ports.
pub(crate) const SLICE_BACKENDS: Limit = limit("backends in a slice", 100_000);
/// The kinds of objects in a position.
pub(crate) const POSITION_KINDS: Limit = limit("kinds in a position", 16);
/// The named ports of an address.
pub(crate) const NAMED_PORTS: Limit = limit("named ports of an address", 1_000);

/// The object of a policy.
pub(crate) const POLICY: Limit = limit("bytes in a policy", LocalPolicy::MAX_OBJECT);
/// The value of a policy: what an etcd accepts by default.
pub(crate) const POLICY_VALUE: Limit = limit("bytes in a policy's value", 1536 * 1024);
/// What is refused of a policy.
pub(crate) const REFUSALS: Limit = limit("refusals of a policy", LocalPolicy::MAX_REFUSALS);
/// A field or a reason of a refusal.
pub(crate) const REFUSAL: Limit = limit("bytes in a refusal", LocalPolicy::MAX_REFUSAL);

// === impl Limit ===

impl Limit {
    /// Checks a size or count.
    pub(crate) fn check(self, found: usize) -> Result<(), DecodeError> {
        let Self { what, most } = self;
        if found <= most { Ok(()) } else { Err(DecodeError::TooLarge { what, limit: most }) }
    }

    /// Checks the length of a text.
    pub(crate) fn text(self, text: &str) -> Result<(), DecodeError> {
        self.check(text.len())
    }

    /// Checks the length of each text.
    pub(crate) fn texts<'a>(
        self,
        texts: impl IntoIterator<Item = &'a String>,
    ) -> Result<(), DecodeError> {
        texts.into_iter().try_for_each(|text| self.text(text))
    }

    /// The largest allowed size or count.
    pub(crate) fn most(self) -> usize {
        self.most
    }
}

/// Checks labels, or a selector.
pub(crate) fn labels(labels: &BTreeMap<String, String>) -> Result<(), DecodeError> {
    LABEL_KEY.texts(labels.keys())?;
    labels.iter().try_for_each(|(key, value)| {
        // The service's name may be longer than other label values.
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

/// Checks an endpoint slice of either format.
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
