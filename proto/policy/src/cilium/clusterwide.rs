//! CiliumClusterwideNetworkPolicy: of all namespaces.

use super::{Scope, has_namespace, names_namespace};
use crate::{
    path::Path,
    read::Reader,
    selector::{Requirement, Selector},
};

/// A CiliumClusterwideNetworkPolicy has no namespace.
pub(crate) struct Clusterwide;

// === impl Clusterwide ===

impl Scope for Clusterwide {
    fn subject(&self, _reader: &mut Reader<'_>, written: Selector, _path: &Path<'_>) -> Selector {
        written
    }

    /// Something with a namespace, so that `{}` selects all pods, and nothing else. Peers of pods without labels
    /// (`reserved:init`) are taken as they are, and so are reserved labels.
    fn peer(&self, written: Selector, subject: &Selector) -> Selector {
        let is_init =
            |one: &Requirement| one.source.as_deref() == Some("reserved") && one.key == "init";
        let is_whole = written.names_reserved()
            || written.requirements.iter().any(names_namespace)
            || subject.requirements.iter().any(is_init);
        if is_whole { written } else { written.and(has_namespace()) }
    }
}
