//! Every field of the kinds' schemas, and what becomes of it: read, refused, or without effect.
//!
//! The parser asks this table about each field that it meets, so what is documented is what happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use crate::path::Path;

mod cilium;
mod markdown;
mod network_policy;

pub use markdown::fields_markdown;

/// The schema of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Schema {
    /// Of a NetworkPolicy.
    NetworkPolicy,
    /// Of a CiliumNetworkPolicy and of a CiliumClusterwideNetworkPolicy.
    Cilium,
}

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// It is read.
    Done,
    /// An object that has it is refused, and why. So is all that is below it.
    Refused(&'static str),
    /// It decides nothing, and why. Nor does what is below it.
    NoEffect(&'static str),
}

/// Fields that share what becomes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Their paths: `{a,b}` is one of these, `[]` an item of a list, `*` all others, and `<selector>` any of
    /// [`Schema::selectors`].
    pub path: &'static str,
    /// What becomes of them.
    pub support: Support,
}

type Index = BTreeMap<String, Support>;

static NETWORK_POLICY: LazyLock<Index> = LazyLock::new(|| index(Schema::NetworkPolicy));
static CILIUM: LazyLock<Index> = LazyLock::new(|| index(Schema::Cilium));

// === impl Schema ===

impl Schema {
    /// All schemas.
    pub const ALL: [Self; 2] = [Self::NetworkPolicy, Self::Cilium];

    /// Its fields.
    pub const fn fields(self) -> &'static [Field] {
        match self {
            Self::NetworkPolicy => network_policy::FIELDS,
            Self::Cilium => cilium::FIELDS,
        }
    }

    /// Where it has selectors of labels, as in [`Field::path`].
    pub const fn selectors(self) -> &'static [&'static str] {
        match self {
            Self::NetworkPolicy => network_policy::SELECTORS,
            Self::Cilium => cilium::SELECTORS,
        }
    }

    /// What becomes of a field: `spec.ingress[].fromEndpoints`. `None`: there is none of this path.
    pub fn support(self, path: &str) -> Option<Support> {
        let ancestors = path.match_indices(['.', '[']).filter_map(|(at, _)| path.get(..at));
        let mut whole = ancestors.filter_map(|ancestor| self.entry(ancestor));
        whole.find(|support| *support != Support::Done).or_else(|| self.entry(path))
    }

    /// What the table says of exactly this path.
    fn entry(self, path: &str) -> Option<Support> {
        let index = self.index();
        index.get(path).copied().or_else(|| {
            let (parent, _) = path.rsplit_once('.')?;
            index.get(&format!("{parent}.*")).copied()
        })
    }

    fn index(self) -> &'static Index {
        match self {
            Self::NetworkPolicy => &NETWORK_POLICY,
            Self::Cilium => &CILIUM,
        }
    }
}

// === impl Field ===

impl Field {
    const fn done(path: &'static str) -> Self {
        Self { path, support: Support::Done }
    }

    const fn refused(path: &'static str, reason: &'static str) -> Self {
        Self { path, support: Support::Refused(reason) }
    }

    const fn no_effect(path: &'static str, note: &'static str) -> Self {
        Self { path, support: Support::NoEffect(note) }
    }

    /// Its paths, one by one.
    pub fn paths(&self, schema: Schema) -> BTreeSet<String> {
        let paths = match self.path.strip_prefix("<selector>") {
            Some(rest) => {
                schema.selectors().iter().map(|selector| format!("{selector}{rest}")).collect()
            }
            None => vec![self.path.to_owned()],
        };
        paths.into_iter().flat_map(expand).collect()
    }
}

/// What becomes of the field at a path of an object.
pub(crate) fn support(schema: Schema, path: &Path<'_>) -> Option<Support> {
    schema.support(&path.pattern().to_string())
}

/// The field that a misspelt one could be.
pub(crate) fn meant(schema: Schema, parent: &Path<'_>, name: &str) -> Option<&'static str> {
    let parent = parent.pattern().to_string();
    let dot = if parent.is_empty() { "" } else { "." };
    let prefix = format!("{parent}{dot}");
    let name = name.to_ascii_lowercase();
    let fields = schema.index().range(prefix.clone()..);
    let fields = fields.map_while(|(path, _)| path.strip_prefix(&prefix));
    let mut fields = fields.filter(|field| !field.contains(['.', '[', '*']));
    fields.find(|field| {
        let field = field.to_ascii_lowercase();
        field == name
            || field.strip_suffix('s') == Some(&name)
            || name.strip_suffix('s') == Some(&field)
    })
}

fn index(schema: Schema) -> Index {
    let fields = schema.fields().iter();
    fields
        .flat_map(|field| field.paths(schema).into_iter().map(|path| (path, field.support)))
        .collect()
}

/// A path for each combination of the alternatives of its `{a,b}`.
fn expand(path: String) -> Vec<String> {
    let split = path.split_once('{').and_then(|(before, rest)| {
        let (choices, after) = rest.split_once('}')?;
        Some((before, choices, after))
    });
    match split {
        None => vec![path],
        Some((before, choices, after)) => choices
            .split(',')
            .flat_map(|choice| expand(format!("{before}{choice}{after}")))
            .collect(),
    }
}

#[cfg(test)]
mod tests;
