//! `toServices`.

use mesh_model::names;
use serde_json::Value;

use crate::{
    label_selector::Keys,
    path::Path,
    read::{Fields, Reader, quoted},
    rule::ServiceMatch,
};

// === impl Reader ===

impl Reader<'_> {
    pub(super) fn service(&mut self, value: &Value, path: &Path<'_>) -> Option<ServiceMatch> {
        let fields = self.object(value, path);
        let found = match (fields.get("k8sService"), fields.get("k8sServiceSelector")) {
            (Some(named), None) => return self.named(named, &path.field("k8sService")),
            (None, Some(by)) => return self.by_labels(by, &path.field("k8sServiceSelector")),
            (Some(_), Some(_)) => "k8sService and k8sServiceSelector together: give each an entry",
            (None, None) => "it needs k8sService or k8sServiceSelector",
        };
        if fields.is_object() {
            self.refuse(path, found);
        }
        None
    }

    fn named(&mut self, value: &Value, path: &Path<'_>) -> Option<ServiceMatch> {
        let fields = self.object(value, path);
        let namespace = self.namespace(fields, path);
        let at = path.field("serviceName");
        let name = self.required(fields, path, "serviceName");
        let name = name.and_then(|name| self.text(name, &at))?;
        if let Err(reason) = names::label(name) {
            self.refuse(&at, format!("{}: {reason}", quoted(name)));
        }
        Some(ServiceMatch::Named { namespace, name: name.into() })
    }

    fn by_labels(&mut self, value: &Value, path: &Path<'_>) -> Option<ServiceMatch> {
        let fields = self.object(value, path);
        let namespace = self.namespace(fields, path);
        let selector = self.required(fields, path, "selector")?;
        let selector = self.selector(selector, &path.field("selector"), Keys::OfServices);
        Some(ServiceMatch::Labels { namespace, selector })
    }

    /// `None`: services of every namespace.
    fn namespace(&mut self, fields: Fields<'_>, path: &Path<'_>) -> Option<String> {
        let path = path.field("namespace");
        let namespace = fields.get("namespace").and_then(|value| self.text(value, &path))?;
        if namespace.is_empty() {
            return None;
        }
        if let Err(reason) = names::label(namespace) {
            self.refuse(&path, format!("{}: {reason}", quoted(namespace)));
        }
        Some(namespace.into())
    }
}
