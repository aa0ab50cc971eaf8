//! Which services an explanation is about.

use mesh_model::ServiceName;

/// The requested service; an empty text for all.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Wanted {
    pub(super) fn is(&self, service: &ServiceName) -> bool {
        let matches = |of: &str, wanted: &str| wanted.is_empty() || of == wanted;
        matches(&service.namespace, &self.namespace) && matches(&service.name, &self.name)
    }
}
