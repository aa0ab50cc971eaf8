//! Decodes manifests into objects.
//!
//! YAML documents, JSON and the items of Lists have the same meaning: all are parsed into the same tree of values, from which
//! objects are decoded. A mistake in an object affects only that object.

use std::{collections::BTreeMap, path::Path};

use mesh_model::{
    PolicyKind,
    object::{Kind, Object, ObjectKey},
};
use rayon::prelude::*;
use serde_json::Value;

use crate::kubernetes::{
    CiliumEndpoint, CiliumEndpointSlice, CiliumIdentity, CiliumNode, Endpoints, Header, Namespace,
    Node, Pod, Service, Slice,
};

mod fields;
mod labels;
mod misspelt;
mod object;
mod passed_over;
mod pieces;
mod policy;
mod tree;

pub(crate) use misspelt::meant;
pub use object::{Unreadable, decode_object, key_of};
pub use passed_over::PassedOver;

/// The format of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One or more YAML documents.
    Yaml,
    /// One JSON value.
    Json,
}

/// The content of a manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// The objects of supported kinds, each with its first line, counted from 1.
    pub objects: Vec<(usize, Object)>,
    /// Objects that are well-formed but invalid. The other objects are used.
    pub rejected: Vec<DecodeProblem>,
    /// Documents that are not well-formed, so it is not known which objects they should contain.
    pub broken: Vec<DecodeProblem>,
    /// What is ignored, and where it is.
    pub passed_over: BTreeMap<PassedOver, Places>,
}

/// Where something occurs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The first line with it, counted from 1.
    pub line: usize,
    /// How often it occurs.
    pub count: usize,
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct DecodeProblem {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub reason: String,
    /// The object that it concerns, if that is known.
    pub key: Option<ObjectKey>,
}

/// Where an object is in a text.
#[derive(Clone, Copy)]
struct Place<'a> {
    line: usize,
    /// The List that contains it, and the index in it.
    item: Option<(&'a Header, usize)>,
}

/// From this number of documents or of items of a List on, all cores decode them.
const MANY: usize = 64;
/// The smallest size of the pieces into which a List in YAML is split, in bytes.
const PIECE: usize = 64 * 1024;

/// Decodes a manifest.
pub fn decode(format: Format, text: &str) -> Decoded {
    decode_kinds(&Kind::ALL, format, text)
}

/// Decodes a manifest like [`decode`], with another smallest size, in bytes, of the pieces into which Lists in YAML are split.
/// The result does not depend on it.
pub fn decode_in_pieces(format: Format, text: &str, piece: usize) -> Decoded {
    read(&Kind::ALL, format, text, piece)
}

/// The documents of a manifest as trees of values, each with its first line, whatever they are.
///
/// # Errors
/// The first document that is not well-formed.
pub fn documents_of(format: Format, text: &str) -> Result<Vec<(usize, Value)>, DecodeProblem> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let documents = match format {
        Format::Json if text.trim().is_empty() => Vec::new(),
        Format::Json => vec![(1, text)],
        Format::Yaml => documents(text),
    };
    let mut values = Vec::new();
    for (line, document) in documents {
        let value = pieces::read(format, document, PIECE).map_err(|(within, reason)| {
            DecodeProblem { line: line + within - 1, reason, key: None }
        })?;
        if let Some(field) = value.as_ref().and_then(tree::twice) {
            return Err(DecodeProblem { line, reason: format!("{field} occurs twice"), key: None });
        }
        values.extend(value.filter(|value| !value.is_null()).map(|value| (line, value)));
    }
    Ok(values)
}

/// Reads objects of some kinds, and passes over all others.
pub(crate) fn decode_kinds(kinds: &[Kind], format: Format, text: &str) -> Decoded {
    read(kinds, format, text, PIECE)
}

fn read(kinds: &[Kind], format: Format, text: &str, piece: usize) -> Decoded {
    let mut decoded = Decoded::default();
    // Some editors write a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match format {
        // An empty file is valid: users empty a file to remove its last object.
        Format::Json if text.trim().is_empty() => {}
        Format::Json => decoded.document(kinds, format, (1, None), text, piece),
        Format::Yaml => {
            let documents = documents(text);
            let several = documents.len() > 1;
            decoded.read_all(documents, |decoded, index, (line, document)| {
                let at = (line, Some(index + 1).filter(|_| several));
                decoded.document(kinds, format, at, document, piece);
            });
        }
    }
    decoded
}

// === impl Format ===

impl Format {
    /// The format of a file according to its extension; `None` if it is not a manifest.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "yaml" | "yml" => Some(Self::Yaml),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

// === impl Decoded ===

impl Decoded {
    /// Returns itself, or the first problem if a document is not well-formed.
    pub fn whole(self) -> Result<Self, DecodeProblem> {
        match self.broken.first() {
            Some(problem) => Err(problem.clone()),
            None => Ok(self),
        }
    }

    /// Appends the content of a later document.
    fn append(&mut self, following: Self) {
        let Self { objects, rejected, broken, passed_over } = following;
        self.objects.extend(objects);
        self.rejected.extend(rejected);
        self.broken.extend(broken);
        for (what, Places { line, count }) in passed_over {
            self.passed_over.entry(what).or_insert(Places { line, count: 0 }).count += count;
        }
    }

    /// Decodes parts of a text in their order. It uses all cores for many parts, and no threads for a few.
    fn read_all<T: Send>(&mut self, parts: Vec<T>, read: impl Fn(&mut Self, usize, T) + Sync) {
        if parts.len() < MANY {
            return parts.into_iter().enumerate().for_each(|(index, part)| read(self, index, part));
        }
        let read = |(index, part)| {
            let mut decoded = Self::default();
            read(&mut decoded, index, part);
            decoded
        };
        let parts: Vec<Self> = parts.into_par_iter().enumerate().map(read).collect();
        parts.into_iter().for_each(|part| self.append(part));
    }

    /// Reads a document that begins at a line, and has a number where there are others.
    fn document(
        &mut self,
        kinds: &[Kind],
        format: Format,
        (line, number): (usize, Option<usize>),
        text: &str,
        piece: usize,
    ) {
        let broken = |within: usize, reason: String| {
            let reason = match number {
                Some(number) => format!("document {number}: {reason}"),
                None => reason,
            };
            DecodeProblem { line: line + within - 1, reason, key: None }
        };
        match pieces::read(format, text, piece) {
            Err((within, reason)) => self.broken.push(broken(within, reason)),
            Ok(None | Some(Value::Null)) => {}
            Ok(Some(value @ Value::Object(_))) => {
                self.object(kinds, Place { line, item: None }, value);
            }
            Ok(Some(_)) => self.broken.push(broken(1, "this is not an object with fields".into())),
        }
    }

    fn object(&mut self, kinds: &[Kind], place: Place<'_>, value: Value) {
        if let Value::Array(_) = value {
            return self.reject(place, None, "a list is not an object with fields".into());
        }
        let mut header = match fields::read::<Header>(&value) {
            Ok(header) => header,
            Err(reason) => return self.reject(place, None, reason),
        };
        header.inherit(place.item.map(|(list, _)| list));
        match (header.kind.as_str(), place.item) {
            ("", _) => self.reject(place, None, "an object without a kind".into()),
            (kind, Some(_)) if list_of(kind).is_some() => {
                self.reject(place, None, format!("a {kind} in a List: a List contains objects"));
            }
            (kind, None) if list_of(kind).is_some() => self.list(kinds, place.line, &header, value),
            _ => match kinds.iter().find(|kind| header.kind == kind.as_str()) {
                Some(kind) => self.known(*kind, place, &header, &value),
                None => self.unknown(kinds, place, &header),
            },
        }
    }

    fn list(&mut self, kinds: &[Kind], line: usize, header: &Header, mut list: Value) {
        if let Some(problem) = misspelt::misspelt_list(&list) {
            let reason = format!("{}: {problem}", header.kind);
            return self.reject(Place { line, item: None }, None, reason);
        }
        let items = match list.get_mut("items").map(Value::take) {
            None => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(_) => {
                let reason = format!("{}: items is not a list", header.kind);
                return self.reject(Place { line, item: None }, None, reason);
            }
        };
        self.read_all(items, |decoded, index, item| {
            decoded.object(kinds, Place { line, item: Some((header, index)) }, item);
        });
    }

    fn known(&mut self, kind: Kind, place: Place<'_>, header: &Header, value: &Value) {
        let key = header.key(kind);
        let named = || match header.metadata.name.is_empty() {
            true => Err("it has no metadata.name".into()),
            false => object(kind, header, value),
        };
        match named() {
            Ok(object) => {
                for what in PassedOver::of(&object, value) {
                    self.pass_over(place.line, what);
                }
                self.objects.push((place.line, object));
            }
            Err(reason) => {
                let (kind, namespace, name) = (&header.kind, &key.namespace, &key.name);
                let reason = match (&**namespace, &**name) {
                    ("", "") => format!("{kind}: {reason}"),
                    ("", name) => format!("{kind} {name}: {reason}"),
                    (namespace, name) => format!("{kind} {namespace}/{name}: {reason}"),
                };
                let key = Some(key).filter(|key| !key.name.is_empty());
                self.reject(place, key, reason);
            }
        }
    }

    fn unknown(&mut self, kinds: &[Kind], place: Place<'_>, header: &Header) {
        let known: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
        match meant(&header.kind, &known) {
            Some(meant) => {
                let Header { kind, metadata, .. } = header;
                let reason = match metadata.name.as_str() {
                    "" => format!("kind {kind}: did you mean {meant}?"),
                    name => {
                        let namespace = metadata.namespace();
                        format!("{kind} {namespace}/{name}: kind: did you mean {meant}?")
                    }
                };
                self.reject(place, None, reason);
            }
            None => self.pass_over(place.line, PassedOver::Kind(header.kind.clone())),
        }
    }

    fn pass_over(&mut self, line: usize, what: PassedOver) {
        let places = self.passed_over.entry(what).or_insert(Places { line, count: 0 });
        places.count += 1;
    }

    fn reject(&mut self, place: Place<'_>, key: Option<ObjectKey>, reason: String) {
        let Place { line, item } = place;
        let reason = match item {
            Some((_, index)) => format!("item {index}: {reason}"),
            None => reason,
        };
        self.rejected.push(DecodeProblem { line, reason, key });
    }
}

/// The kind of the items of a List: empty for `List`, whose items may have any kind. `None`: it is not a List.
fn list_of(kind: &str) -> Option<&str> {
    let of = kind.strip_suffix("List")?;
    let is_read = Kind::ALL.iter().any(|kind| kind.as_str() == of);
    (of.is_empty() || is_read).then_some(of)
}

/// Decodes an object of a supported kind.
fn object(kind: Kind, header: &Header, value: &Value) -> Result<Object, String> {
    if let Some(field) = tree::twice(value) {
        return Err(format!("{field} occurs twice"));
    }
    let version = match kind {
        Kind::EndpointSlice => "discovery.k8s.io/v1",
        Kind::Namespace | Kind::Node | Kind::Pod | Kind::Service | Kind::Endpoints => "v1",
        Kind::CiliumNode | Kind::CiliumIdentity | Kind::CiliumEndpoint => "cilium.io/v2",
        Kind::CiliumEndpointSlice => "cilium.io/v2alpha1",
        // The version is checked with the rest of them.
        Kind::NetworkPolicy | Kind::CiliumNetworkPolicy | Kind::CiliumClusterwideNetworkPolicy => {
            &header.api_version
        }
    };
    if header.api_version != version {
        let found = &header.api_version;
        return Err(format!("apiVersion {found:?}: only {version} is supported"));
    }
    if let Some(problem) = misspelt::misspelt(&header.kind, value) {
        return Err(problem);
    }
    header.metadata.check(kind)?;
    typed(kind, header, value)
}

/// Reads the fields of a kind.
fn typed(kind: Kind, header: &Header, value: &Value) -> Result<Object, String> {
    // Of a policy they decide nothing.
    if kind.policy().is_none() {
        labels::check(kind, value)?;
    }
    match kind {
        Kind::Namespace => Ok(fields::read::<Namespace>(value)?.into_object()),
        Kind::Node => fields::read::<Node>(value)?.into_object(),
        Kind::Pod => fields::read::<Pod>(value)?.into_object(),
        Kind::Service => fields::read::<Service>(value)?.into_object(),
        Kind::EndpointSlice => fields::read::<Slice>(value)?.into_object(),
        Kind::Endpoints => fields::read::<Endpoints>(value)?.into_object(),
        Kind::CiliumNode => fields::read::<CiliumNode>(value)?.into_object(),
        Kind::CiliumIdentity => fields::read::<CiliumIdentity>(value)?.into_object(),
        Kind::CiliumEndpoint => fields::read::<CiliumEndpoint>(value)?.into_object(),
        Kind::CiliumEndpointSlice => fields::read::<CiliumEndpointSlice>(value)?.into_object(),
        Kind::NetworkPolicy => Ok(policy::read(PolicyKind::NetworkPolicy, header, value)),
        Kind::CiliumNetworkPolicy => {
            Ok(policy::read(PolicyKind::CiliumNetworkPolicy, header, value))
        }
        Kind::CiliumClusterwideNetworkPolicy => {
            Ok(policy::read(PolicyKind::CiliumClusterwideNetworkPolicy, header, value))
        }
    }
}

/// The documents of a YAML text, each with its first line. A line that begins with `---`, or is `...`, always ends a
/// document: YAML does not allow such lines elsewhere.
fn documents(text: &str) -> Vec<(usize, &str)> {
    let is_marker =
        |line: &str| line == "---" || line.starts_with("--- ") || line.starts_with("---\t");
    let mut all = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 1, 0);
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let is_end = line.trim_end() == "...";
        if is_end || is_marker(line.trim_end()) {
            all.push((start_line, text.get(start..at).unwrap_or_default()));
            let rest = line.trim_start_matches('-');
            (start, start_line) = match rest.trim_start() {
                _ if is_end => (at + line.len(), number + 1),
                "" => (at + line.len(), number + 1),
                comment if comment.starts_with('#') => (at + line.len(), number + 1),
                // A document may begin on the line of its marker.
                _ => (at + line.len() - rest.len(), number),
            };
        }
        at += line.len();
    }
    all.push((start_line, text.get(start..).unwrap_or_default()));
    // Directives such as `%YAML 1.2` come before a marker. They have no effect here.
    let is_blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    let says_nothing = |document: &str| {
        let mut lines = document.lines();
        lines.all(|line| is_blank(line) || line.starts_with('%'))
    };
    all.retain(|(_, document)| !says_nothing(document));
    all
}

#[cfg(test)]
mod tests;
