//! JSON as Go's `encoding/json` reads and writes it, which Cilium uses. serde's rules differ.
//!
//! Reading: field names match in any case, an absent field or `null` is the zero value, unknown fields are ignored, and the
//! last one of duplicate fields counts. Writing: fields in declared order, compact, with `<`, `>`, `&`, U+2028 and U+2029
//! escaped.

use std::{collections::BTreeMap, io};

use serde::Serialize;
use serde_json::ser::Formatter;

/// Whether a value is empty for Go: such a field is left out with `omitempty`, and a nil map or slice is written as `null`.
pub(crate) trait GoEmpty {
    /// Whether this is empty.
    fn is_go_empty(&self) -> bool;
}

/// Declares a struct with Go's JSON rules.
///
/// Each field is `"WireName" => field: Type`, optionally followed by `, omit` (left out if empty) or `, null` (null if
/// empty).
macro_rules! go_struct {
    (
        $(#[$meta:meta])*
        struct $name:ident { $($wire:literal => $field:ident : $type:ty $(, $rule:ident)? ;)+ }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        pub(crate) struct $name {
            $(pub(crate) $field: $type,)+
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Fields;
                impl<'de> serde::de::Visitor<'de> for Fields {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_unit<E>(self) -> Result<Self::Value, E> {
                        Ok($name::default())
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                        use serde::de::Error as _;
                        let mut value = $name::default();
                        while let Some(key) = map.next_key::<String>()? {
                            match key.as_str() {
                                $(key if key.eq_ignore_ascii_case($wire) => {
                                    value.$field = map
                                        .next_value::<Option<$type>>()
                                        .map_err(|e| A::Error::custom(format_args!(concat!($wire, ": {}"), e)))?
                                        .unwrap_or_default();
                                })+
                                _ => { map.next_value::<serde::de::IgnoredAny>()?; }
                            }
                        }
                        Ok(value)
                    }
                }
                deserializer.deserialize_any(Fields)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeMap as _;
                let mut map = serializer.serialize_map(None)?;
                $(go_struct!(@write map, $wire, self.$field $(, $rule)?);)+
                map.end()
            }
        }
    };
    (@write $map:ident, $wire:literal, $value:expr) => { $map.serialize_entry($wire, &$value)? };
    (@write $map:ident, $wire:literal, $value:expr, omit) => {
        if !$crate::go_json::GoEmpty::is_go_empty(&$value) { $map.serialize_entry($wire, &$value)? }
    };
    (@write $map:ident, $wire:literal, $value:expr, null) => {
        if $crate::go_json::GoEmpty::is_go_empty(&$value) {
            $map.serialize_entry($wire, &())?
        } else {
            $map.serialize_entry($wire, &$value)?
        }
    };
}
pub(crate) use go_struct;

/// Encodes a value as Go does.
pub(crate) fn to_vec(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, HtmlSafe);
    // It cannot fail: it writes to memory, and all map keys are strings.
    let written = value.serialize(&mut serializer);
    debug_assert!(written.is_ok(), "{written:?}");
    bytes
}

/// serde_json's compact format, with Go's escapes of characters that are special in HTML.
struct HtmlSafe;

impl Formatter for HtmlSafe {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest
            .char_indices()
            .find(|(_, c)| matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}'))
        {
            let (plain, tail) = rest.split_at(at);
            writer.write_all(plain.as_bytes())?;
            write!(writer, "\\u{:04x}", u32::from(c))?;
            rest = tail.split_at(c.len_utf8()).1;
        }
        writer.write_all(rest.as_bytes())
    }
}

// === impl GoEmpty ===

impl GoEmpty for String {
    fn is_go_empty(&self) -> bool {
        self.is_empty()
    }
}

impl GoEmpty for bool {
    fn is_go_empty(&self) -> bool {
        !self
    }
}

impl GoEmpty for u32 {
    fn is_go_empty(&self) -> bool {
        *self == 0
    }
}

impl<T> GoEmpty for Vec<T> {
    fn is_go_empty(&self) -> bool {
        self.is_empty()
    }
}

impl<T> GoEmpty for Option<T> {
    fn is_go_empty(&self) -> bool {
        self.is_none()
    }
}

impl<K, V> GoEmpty for BTreeMap<K, V> {
    fn is_go_empty(&self) -> bool {
        self.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    go_struct! {
        /// An example of each rule.
        struct Example {
            "Name" => name: String;
            "List" => list: Vec<u16>, null;
            "map" => map: BTreeMap<String, bool>, omit;
        }
    }

    #[test]
    fn reads_like_go() {
        let example: Example = serde_json::from_str(
            r#"{"NAME":"a","list":null,"other":{"x":[1]},"Map":{"k":true},"name":"b"}"#,
        )
        .unwrap();
        assert_eq!((example.name.as_str(), example.list.len(), example.map.len()), ("b", 0, 1));
        let error = serde_json::from_str::<Example>("{\"list\":[1,\n-1]}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "List: invalid value: integer `-1`, expected u16 at line 2 column 2"
        );
    }

    #[test]
    fn writes_like_go() {
        let name = "<a&b>\u{2028}\u{e9}\u{8}\u{c}\u{1}\"\\/\u{7f}".into();
        let json = to_vec(&Example { name, ..Example::default() });
        assert_eq!(
            String::from_utf8(json).unwrap(),
            "{\"Name\":\"\\u003ca\\u0026b\\u003e\\u2028\u{e9}\\b\\f\\u0001\\\"\\\\/\u{7f}\",\"List\":null}"
        );
    }
}
