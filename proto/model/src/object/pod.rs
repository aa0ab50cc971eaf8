//! Pods: most of a cluster's objects, so each must be small.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use uuid::{Uuid, fmt::Hyphenated};

use crate::endpoint::NamedPort;

/// A pod. What pods of one workload or one node have in common, they may share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Distinguishes it from earlier and later pods of the same name, or empty.
    pub uid: Uid,
    /// What most pods of a workload have in common.
    pub template: Arc<PodTemplate>,
    /// The node it is scheduled to, or empty.
    pub node: Arc<str>,
    /// It has its node's addresses, and no identity of its own.
    pub host_network: bool,
    /// Its addresses; empty until it is started.
    pub ips: Box<[IpAddr]>,
    /// Its condition `Ready` is `True`.
    pub ready: bool,
    /// It is being deleted.
    pub terminating: bool,
    /// Its phase is `Succeeded` or `Failed`: it no longer has its addresses.
    pub finished: bool,
    /// The socket hooks must not translate its connections to services.
    pub socket_lb_off: bool,
}

/// What a pod has of the template of its workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodTemplate {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its service account.
    pub service_account: String,
    /// Its `hostname`, if it is set.
    pub hostname: Option<String>,
    /// Its `subdomain`: the headless service to which its host name belongs.
    pub subdomain: Option<String>,
    /// Its containers' named ports.
    pub named_ports: Vec<NamedPort>,
}

/// What distinguishes a pod from others of its name, or empty. API servers have UUIDs, which need no memory beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uid(Form);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// A UUID in the form that API servers write.
    Uuid(Uuid),
    /// Any other text.
    Text(Box<str>),
}

// === impl Uid ===

impl From<&str> for Uid {
    fn from(text: &str) -> Self {
        let mut buffer = [0; Hyphenated::LENGTH];
        let uuid = Uuid::try_parse(text).ok();
        let uuid = uuid.filter(|uuid| uuid.hyphenated().encode_lower(&mut buffer) == text);
        Self(uuid.map_or_else(|| Form::Text(text.into()), Form::Uuid))
    }
}

impl Default for Uid {
    fn default() -> Self {
        Self(Form::Text(Box::default()))
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Uuid(uuid) => fmt::Display::fmt(&uuid.hyphenated(), f),
            Form::Text(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_keeps_its_text() {
        let uuid = "5b0f2a54-0000-4000-8000-00000000abcd";
        for text in [
            uuid,
            "",
            "5b0f2a54",
            "5B0F2A54-0000-4000-8000-00000000ABCD",
            "5b0f2a540000400080000000000000ab",
            "{5b0f2a54-0000-4000-8000-00000000abcd}",
            "urn:uuid:5b0f2a54-0000-4000-8000-00000000abcd",
        ] {
            let uid = Uid::from(text);
            assert_eq!(uid.to_string(), text);
            assert_eq!(matches!(uid.0, Form::Uuid(_)), text == uuid, "{text}");
        }
    }

    #[test]
    fn a_pod_is_small() {
        assert!(size_of::<Pod>() <= 104, "{}", size_of::<Pod>());
    }
}
