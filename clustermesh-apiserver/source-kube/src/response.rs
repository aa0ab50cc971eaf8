//! What an API server answers: pages of lists, and lines of watches.
//!
//! Only what says where an object belongs is read here; the object itself stays text, so that one that cannot be read costs
//! no other.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// A page of a list.
#[derive(Debug, Deserialize)]
pub(crate) struct Page<'a> {
    pub(crate) metadata: ListMeta,
    /// `null` where there is none.
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

/// What an API server says of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ListMeta {
    pub(crate) resource_version: String,
    /// Where the next page begins; empty on the last one.
    #[serde(rename = "continue")]
    pub(crate) next: String,
}

/// A line of a watch.
#[derive(Debug, Deserialize)]
pub(crate) struct Line<'a> {
    #[serde(rename = "type", borrow)]
    pub(crate) what: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) object: &'a RawValue,
}

/// An object, as far as every object is the same.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AnyObject {
    pub(crate) metadata: Metadata,
}

/// The metadata of an object that are used, whatever its kind.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Metadata {
    pub(crate) name: String,
    #[serde(skip_serializing)]
    pub(crate) uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) resource_version: String,
}

/// Why an API server refuses.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Status {
    pub(crate) code: u16,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) details: Option<StatusDetails>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct StatusDetails {
    pub(crate) retry_after_seconds: u64,
    pub(crate) causes: Vec<StatusCause>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct StatusCause {
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) field: String,
}

// === impl Page ===

impl<'a> Page<'a> {
    /// Its objects, each as it stands in the answer.
    pub(crate) fn items(&self) -> impl Iterator<Item = &'a str> {
        self.items.iter().flatten().map(|item| item.get())
    }
}

// === impl Metadata ===

impl Metadata {
    /// Those of an object; `None` if it cannot be read at all.
    pub(crate) fn of(object: &str) -> Option<Self> {
        serde_json::from_str(object).ok().map(|AnyObject { metadata }| metadata)
    }

    /// The name, if there is one.
    pub(crate) fn into_name(self) -> Option<String> {
        Some(self.name).filter(|name| !name.is_empty())
    }

    /// The version, if it can be compared.
    pub(crate) fn version(&self) -> Option<u64> {
        version(&self.resource_version)
    }
}

// === impl Status ===

impl Status {
    /// The history before a version is gone: list again.
    pub(crate) fn is_expired(&self) -> bool {
        self.code == 410 || ["Expired", "Gone"].contains(&self.reason.as_str())
    }

    /// The version asked for is later than all that the server has: its etcd was restored, or it is behind.
    pub(crate) fn is_too_large(&self) -> bool {
        let causes = self.details.iter().flat_map(|details| &details.causes);
        causes.map(|cause| cause.reason.as_str()).any(|reason| reason == "ResourceVersionTooLarge")
    }
}

/// A version as a number: the API server of Kubernetes has decimal ones, and compares them so itself.
pub(crate) fn version(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_decimal_numbers() {
        for (text, wanted) in [
            ("0", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("+5", None),
            ("", None),
            ("5a", None),
        ] {
            assert_eq!(version(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn a_list_without_items_is_empty() {
        for items in [r#","items":null"#, r#","items":[]"#, ""] {
            let text = format!(r#"{{"metadata":{{"resourceVersion":"7"}}{items}}}"#);
            let page: Page<'_> = serde_json::from_str(&text).unwrap();
            assert_eq!((page.items().count(), page.metadata.resource_version.as_str()), (0, "7"));
        }
    }

    /// As kube-apiserver 1.36 answers to a version of the future.
    #[test]
    fn a_version_of_the_future_is_recognised() {
        let text = r#"{"kind":"Status","code":504,"reason":"Timeout","details":{"causes":[{"reason":"ResourceVersionTooLarge"}],"retryAfterSeconds":1}}"#;
        let status: Status = serde_json::from_str(text).unwrap();
        assert!(status.is_too_large() && !status.is_expired());
    }
}
