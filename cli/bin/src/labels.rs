//! Labels of pods and identities: how they are selected, as `kubectl -l` does it, and shown.

use std::str::FromStr;

use mesh_model::{Label, Labels};
use serde_json::{Map, Value};

/// What `-l` asks for: all of it. Nothing selects everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selector(Vec<Requirement>);

/// What one label must be like.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    /// Without one any source will do.
    source: Option<String>,
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Is(String),
    /// Another value, or no such label.
    IsNot(String),
    Exists,
    IsAbsent,
}

/// The source of a label that names none.
const UNSPECIFIED: &str = "unspec";

/// The labels of an identity as JSON: `"k8s:app": "web"`.
pub(crate) fn json(text: &str) -> Map<String, Value> {
    let labels = Labels::parse(text);
    labels.iter().map(|(source, key, value)| (format!("{source}:{key}"), value.into())).collect()
}

// === impl Selector ===

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split([',', ';']).filter(|part| !part.is_empty());
        Ok(Self(parts.map(Requirement::parse).collect::<Result<_, _>>()?))
    }
}

impl Selector {
    /// Whether it selects what has these labels, as an identity has them.
    pub(crate) fn selects(&self, labels: &str) -> bool {
        let labels = Labels::parse(labels);
        self.0.iter().all(|requirement| requirement.holds(&labels))
    }
}

// === impl Requirement ===

impl Requirement {
    fn parse(text: &str) -> Result<Self, String> {
        let (name, test) = match text.split_once('=') {
            Some((name, value)) => match name.strip_suffix('!') {
                Some(name) => (name, Test::IsNot(value.to_owned())),
                None => (name, Test::Is(value.strip_prefix('=').unwrap_or(value).to_owned())),
            },
            None => match text.strip_prefix('!') {
                Some(name) => (name, Test::IsAbsent),
                None => (text, Test::Exists),
            },
        };
        let Label { source, key, value: _ } = Label::with_name(name, "");
        if key.is_empty() || text.contains([' ', '(', ')']) {
            return Err(format!("{text:?} is none of KEY=VALUE, KEY!=VALUE, KEY and !KEY"));
        }
        Ok(Self { source: Some(source).filter(|source| source != UNSPECIFIED), key, test })
    }

    fn holds(&self, labels: &Labels) -> bool {
        let is_it = |source: &str, key: &str| {
            key == self.key && self.source.as_deref().is_none_or(|wanted| wanted == source)
        };
        let found = labels.iter().find(|(source, key, _)| is_it(source, key));
        let found = found.map(|(_, _, value)| value);
        match &self.test {
            Test::Is(wanted) => found == Some(wanted),
            Test::IsNot(other) => found != Some(other),
            Test::Exists => found.is_some(),
            Test::IsAbsent => found.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_selected_as_kubectl_does_it() {
        let labels = "k8s:app=web;k8s:io.kubernetes.pod.namespace=shop;k8s:tier=;";
        for (selector, selects) in [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("k8s:app=web", true),
            ("any:app=web", false),
            ("app=db", false),
            ("app=web,io.kubernetes.pod.namespace=shop", true),
            ("k8s:app=web;k8s:io.kubernetes.pod.namespace=other;", false),
            ("app!=db", true),
            ("app!=web", false),
            ("version!=1", true),
            ("app", true),
            ("tier", true),
            ("tier=", true),
            ("version", false),
            ("!version", true),
            ("!app", false),
            ("app=web,!version,tier!=front", true),
        ] {
            let selector: Selector = selector.parse().unwrap();
            assert_eq!(selector.selects(labels), selects, "{selector:?}");
        }
        for wrong in ["app in (web,db)", "=web", "!", "app notin (web)", "a=b,=c"] {
            let error = Selector::from_str(wrong).unwrap_err();
            assert!(error.ends_with("is none of KEY=VALUE, KEY!=VALUE, KEY and !KEY"), "{error}");
        }
    }

    #[test]
    fn labels_are_fields() {
        let wanted = serde_json::json!({ "k8s:app": "web", "reserved:host": "" });
        assert_eq!(Value::Object(json("k8s:app=web;reserved:host;")), wanted);
    }
}
