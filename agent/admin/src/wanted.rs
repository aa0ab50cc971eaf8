//! Which services an explanation is about.

use mesh_model::ServiceName;

/// The requested service; an empty text for all.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Wanted {
    /// Whether a service is one of them.
    pub fn is(&self, service: &ServiceName) -> bool {
        let matches = |of: &str, wanted: &str| wanted.is_empty() || of == wanted;
        matches(&service.namespace, &self.namespace) && matches(&service.name, &self.name)
    }
}
