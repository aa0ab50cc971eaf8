//! Where something is in an object.

use std::{borrow::Cow, fmt};

use mesh_model::excerpt;

/// How many characters of a name are shown. No valid one is longer: a label's is a domain (253), a slash and 63.
const SHOWN: usize = 317;

/// A place in an object, as a list of steps from its root. It lives on the stack of who reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Index(usize),
    /// A key that a user chooses, such as a label's.
    Key(&'a str),
}

/// A path as in the table of fields: without the numbers of list items, and `spec` for each of `specs`.
pub(crate) struct Pattern<'a>(&'a Path<'a>);

/// A path from one of `specs`, or from the object's `spec`: `specs[1].ingress[0]`, `ingress[0]`.
pub(crate) struct WithinSpec<'a>(&'a Path<'a>);

// === impl Path ===

impl<'a> Path<'a> {
    /// The object itself.
    pub(crate) const ROOT: Path<'static> = Path { parent: None, step: Step::Root };

    /// A field of what is here.
    pub(crate) const fn field(&'a self, name: &'a str) -> Self {
        Self { parent: Some(self), step: Step::Field(name) }
    }

    /// An item of the list that is here.
    pub(crate) const fn index(&'a self, index: usize) -> Self {
        Self { parent: Some(self), step: Step::Index(index) }
    }

    /// An entry of the map that is here.
    pub(crate) const fn key(&'a self, key: &'a str) -> Self {
        Self { parent: Some(self), step: Step::Key(key) }
    }

    /// As in the table of fields.
    pub(crate) const fn pattern(&'a self) -> Pattern<'a> {
        Pattern(self)
    }

    /// From the spec.
    pub(crate) const fn within_spec(&'a self) -> WithinSpec<'a> {
        WithinSpec(self)
    }

    const fn is_root(&self) -> bool {
        matches!(self.step, Step::Root)
    }

    /// Whether this is a field of the object itself.
    fn is_top(&self, name: &str) -> bool {
        self.parent.is_some_and(Path::is_root)
            && matches!(self.step, Step::Field(field) if field == name)
    }
}

impl fmt::Display for Path<'_> {
    /// `spec.egress[0].toFQDNs`, `spec.podSelector.matchLabels[app]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(parent) = self.parent else { return Ok(()) };
        parent.fmt(f)?;
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) if parent.is_root() => f.write_str(&shown(name)),
            Step::Field(name) => write!(f, ".{}", shown(name)),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{}]", shown(key)),
        }
    }
}

// === impl Pattern ===

impl fmt::Display for Pattern<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(path) = self;
        let Some(parent) = path.parent else { return Ok(()) };
        if parent.is_top("specs") && matches!(path.step, Step::Index(_)) {
            return f.write_str("spec");
        }
        Pattern(parent).fmt(f)?;
        match path.step {
            Step::Root => Ok(()),
            Step::Field(name) if parent.is_root() => f.write_str(name),
            Step::Field(name) => write!(f, ".{name}"),
            Step::Index(_) | Step::Key(_) => f.write_str("[]"),
        }
    }
}

// === impl WithinSpec ===

impl fmt::Display for WithinSpec<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.0.to_string();
        f.write_str(whole.strip_prefix("spec.").unwrap_or(&whole))
    }
}

/// A name that an author chose: in quotes if it could be misread, and not longer than a valid one.
fn shown(name: &str) -> Cow<'_, str> {
    let short = excerpt(name, SHOWN);
    match !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => short,
        false => format!("{short:?}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let spec = Path::ROOT.field("spec");
        let (egress, labels) = (spec.field("egress"), spec.field("matchLabels"));
        let rule = egress.index(2);
        assert_eq!(rule.field("to").to_string(), "spec.egress[2].to");
        assert_eq!(rule.pattern().to_string(), "spec.egress[]");
        assert_eq!(rule.within_spec().to_string(), "egress[2]");
        assert_eq!(labels.key("a.b/c").to_string(), "spec.matchLabels[a.b/c]");
        assert_eq!(Path::ROOT.to_string(), "");
        assert_eq!(spec.field("").to_string(), "spec.\"\"");
        assert_eq!(spec.field("a\nb").to_string(), "spec.\"a\\nb\"");
        assert_eq!(spec.field(&"a".repeat(1000)).to_string().len(), 5 + SHOWN + '…'.len_utf8());

        let specs = Path::ROOT.field("specs");
        let second = specs.index(1);
        let ingress = second.field("ingress");
        let rule = ingress.index(0);
        assert_eq!(rule.to_string(), "specs[1].ingress[0]");
        assert_eq!(rule.pattern().to_string(), "spec.ingress[]");
        assert_eq!(rule.within_spec().to_string(), "specs[1].ingress[0]");
        assert_eq!(specs.pattern().to_string(), "specs");
    }
}
