//! CiliumNetworkPolicy: of one namespace.

use mesh_model::identity::{NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX};

use super::{Scope, names_namespace};
use crate::{
    path::Path,
    read::{Reader, quoted},
    selector::{Operator, Requirement, Selector},
};

/// The namespace of a CiliumNetworkPolicy.
pub(crate) struct Namespaced<'a>(pub(crate) &'a str);

// === impl Namespaced ===

impl Scope for Namespaced<'_> {
    /// Only pods of the namespace. Cilium takes another namespace out of the selector and warns in its log; the author
    /// did not mean that.
    fn subject(&self, reader: &mut Reader<'_>, written: Selector, path: &Path<'_>) -> Selector {
        let Self(namespace) = *self;
        let mut of_namespaces = written.requirements.iter().filter(|one| names_namespace(one));
        let is_met = of_namespaces.all(|requirement| match &requirement.operator {
            Operator::In(values) => values.iter().any(|one| one == namespace),
            Operator::NotIn(values) => values.iter().all(|one| one != namespace),
            Operator::Exists => true,
            Operator::DoesNotExist => false,
        });
        if !is_met {
            let own = quoted(namespace);
            reader.refuse(
                path,
                format!("it selects pods of another namespace, but governs those of {own} only: put the policy there, or write a CiliumClusterwideNetworkPolicy"),
            );
        }
        written.and(Requirement::equals(NAMESPACE_LABEL, namespace))
    }

    /// Of the policy's namespace, unless it says something of namespaces itself. Reserved labels are left alone.
    fn peer(&self, written: Selector, _subject: &Selector) -> Selector {
        let Self(namespace) = *self;
        let of_namespaces = |one: &Requirement| {
            names_namespace(one) || one.key.starts_with(NAMESPACE_LABELS_PREFIX)
        };
        match written.names_reserved() || written.requirements.iter().any(of_namespaces) {
            true => written,
            false => written.and(Requirement::equals(NAMESPACE_LABEL, namespace)),
        }
    }
}
