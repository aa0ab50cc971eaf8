//! A pod's network, as the plugin writes it for the agent: one file for each attachment.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// A container and its interface: what the specification calls an attachment. Its names are safe in paths.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttachmentKey {
    container: String,
    interface: String,
}

/// A pod by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodName {
    namespace: String,
    name: String,
}

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netns {
    /// The file that it is mounted at.
    pub path: PathBuf,
    /// The file's inode, which no other namespace has while this one lives.
    pub inode: u64,
    /// The number by which kernel programs know it, which no other will have before the next boot.
    pub cookie: u64,
}

/// A pod's network after ADD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The container and its interface.
    pub key: AttachmentKey,
    /// The pod.
    pub pod: PodName,
    /// The pod's uid, or empty.
    pub uid: String,
    /// Its network namespace.
    pub netns: Netns,
    /// Its addresses on the interface.
    pub addresses: Vec<IpAddr>,
    /// The boot in which it was attached, as the kernel names it.
    pub boot: String,
    /// When, in seconds since 1970.
    pub attached_unix_seconds: u64,
}

/// The identity of an attachment when its agent knew it last: a file beside the attachment's, which only the agent
/// writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The pod that it was of.
    pub pod: PodName,
    /// The pod's uid, or empty.
    pub uid: String,
    /// The identity.
    pub identity: u32,
}

/// Why a file, or a name, is no attachment.
#[derive(Debug, thiserror::Error)]
pub enum AttachmentError {
    /// Not what a plugin of ours wrote.
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Written by a later version.
    #[error("it is of version {0}, and this agent reads version {VERSION}")]
    Newer(u32),
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// It is another attachment's.
    #[error("it is of {0}")]
    Other(AttachmentKey),
}

/// Why a name is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no {of}: {rule}")]
pub struct NameError {
    name: String,
    of: &'static str,
    rule: &'static str,
}

/// The file's version.
const VERSION: u32 = 1;
/// The longest container id, so that a file may be named by it.
const MAX_CONTAINER: usize = 200;
/// The longest name of an interface, as Linux has it.
const MAX_INTERFACE: usize = 15;
/// The most that a file may have.
const MAX_FILE: usize = 64 * 1024;

/// As it is on disk.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    v: u32,
    container: String,
    interface: String,
    namespace: String,
    name: String,
    uid: String,
    netns: String,
    netns_inode: u64,
    netns_cookie: u64,
    addresses: Vec<IpAddr>,
    boot: String,
    attached_unix_seconds: u64,
}

#[derive(Deserialize)]
struct Versioned {
    v: u32,
}

#[derive(Serialize, Deserialize)]
struct WrittenIdentity {
    v: u32,
    namespace: String,
    name: String,
    uid: String,
    identity: u32,
}

// === impl AttachmentKey ===

impl AttachmentKey {
    /// A container's interface.
    ///
    /// # Errors
    /// When a name is not as the specification has it.
    pub fn new(container: &str, interface: &str) -> Result<Self, NameError> {
        Self::check_container(container)?;
        Self::check_interface(interface)?;
        Ok(Self { container: container.into(), interface: interface.into() })
    }

    /// The container.
    pub fn container(&self) -> &str {
        &self.container
    }

    /// The interface.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The name of the attachment's file. No container id has an `@` in it.
    pub fn file_name(&self) -> String {
        format!("{}@{}.json", self.container, self.interface)
    }

    /// The name of the file beside it that has its last known identity.
    pub fn remembered_file_name(&self) -> String {
        format!("{}@{}.identity", self.container, self.interface)
    }

    /// The attachment that a file is of; `None` for other files.
    pub fn of_file_name(name: &str) -> Option<Self> {
        let (container, interface) = name.strip_suffix(".json")?.split_once('@')?;
        Self::new(container, interface).ok()
    }

    pub(crate) fn check_container(container: &str) -> Result<(), NameError> {
        let rest = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        let valid = container.len() <= MAX_CONTAINER
            && container.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && container.bytes().all(rest);
        let rule = "up to 200 of a-z, A-Z, 0-9, _, . and -, and the first a letter or digit";
        if valid { Ok(()) } else { Err(NameError::new(container, "container id", rule)) }
    }

    pub(crate) fn check_interface(interface: &str) -> Result<(), NameError> {
        let valid = (1..=MAX_INTERFACE).contains(&interface.len())
            && interface.bytes().all(|b| b.is_ascii_graphic() && !b"/:".contains(&b))
            && interface != "."
            && interface != "..";
        let rule = "up to 15 visible characters without / and :";
        if valid { Ok(()) } else { Err(NameError::new(interface, "interface", rule)) }
    }
}

impl fmt::Display for AttachmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.container, self.interface)
    }
}

// === impl PodName ===

impl PodName {
    /// A pod's name.
    ///
    /// # Errors
    /// When Kubernetes would have no pod of that name.
    pub fn new(namespace: &str, name: &str) -> Result<Self, NameError> {
        let label = |text: &str| {
            let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            !text.is_empty()
                && text.bytes().all(inner)
                && !text.starts_with('-')
                && !text.ends_with('-')
        };
        if namespace.len() > 63 || !label(namespace) {
            return Err(NameError::new(
                namespace,
                "namespace",
                "up to 63 of a-z, 0-9 and - inside",
            ));
        }
        if name.len() > 253 || !name.split('.').all(label) {
            let rule = "up to 253 of a-z, 0-9, and - and . inside";
            return Err(NameError::new(name, "name of a pod", rule));
        }
        Ok(Self { namespace: namespace.into(), name: name.into() })
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its name there.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

// === impl NameError ===

impl NameError {
    fn new(name: &str, of: &'static str, rule: &'static str) -> Self {
        Self { name: crate::excerpt::excerpt(name), of, rule }
    }
}

// === impl Attachment ===

impl Attachment {
    /// The attachment as a file.
    pub fn encode(&self) -> Vec<u8> {
        let Self { key, pod, uid, netns, addresses, boot, attached_unix_seconds } = self;
        let written = Written {
            v: VERSION,
            container: key.container.clone(),
            interface: key.interface.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: uid.clone(),
            netns: netns.path.to_string_lossy().into_owned(),
            netns_inode: netns.inode,
            netns_cookie: netns.cookie,
            addresses: addresses.clone(),
            boot: boot.clone(),
            attached_unix_seconds: *attached_unix_seconds,
        };
        serde_json::to_vec(&written).unwrap_or_default()
    }

    /// The attachment in a file of its name.
    ///
    /// # Errors
    /// When the file is not as [`Attachment::encode`] makes it for that key.
    pub fn decode(key: &AttachmentKey, file: &[u8]) -> Result<Self, AttachmentError> {
        let file = file.get(..MAX_FILE).unwrap_or(file);
        let Versioned { v } = serde_json::from_slice(file)?;
        if v > VERSION {
            return Err(AttachmentError::Newer(v));
        }
        let written: Written = serde_json::from_slice(file)?;
        let found = AttachmentKey::new(&written.container, &written.interface)?;
        if found != *key {
            return Err(AttachmentError::Other(found));
        }
        Ok(Self {
            key: found,
            pod: PodName::new(&written.namespace, &written.name)?,
            uid: written.uid,
            netns: Netns {
                path: Path::new(&written.netns).into(),
                inode: written.netns_inode,
                cookie: written.netns_cookie,
            },
            addresses: written.addresses,
            boot: written.boot,
            attached_unix_seconds: written.attached_unix_seconds,
        })
    }
}

// === impl Remembered ===

impl Remembered {
    /// It as a file.
    pub fn encode(&self) -> Vec<u8> {
        let Self { pod, uid, identity } = self;
        let written = WrittenIdentity {
            v: VERSION,
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: uid.clone(),
            identity: *identity,
        };
        serde_json::to_vec(&written).unwrap_or_default()
    }

    /// The last known identity of an attachment, from its file; `None` if the file is of another pod, or not as
    /// [`Remembered::encode`] makes it: then nothing is remembered.
    pub fn decode(attachment: &Attachment, file: &[u8]) -> Option<Self> {
        let written: WrittenIdentity =
            serde_json::from_slice(file.get(..MAX_FILE).unwrap_or(file)).ok()?;
        let pod = PodName::new(&written.namespace, &written.name).ok()?;
        let is_its = written.v == VERSION && pod == attachment.pod && written.uid == attachment.uid;
        is_its.then_some(Self { pod, uid: written.uid, identity: written.identity })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> Attachment {
        Attachment {
            key: AttachmentKey::new("0a1b", "eth0").unwrap(),
            pod: PodName::new("shop", "cart-0").unwrap(),
            uid: "8f6c".into(),
            netns: Netns { path: "/run/netns/x".into(), inode: 4_026_532_000, cookie: 17 },
            addresses: vec!["10.1.1.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            boot: "b00".into(),
            attached_unix_seconds: 1_700_000_000,
        }
    }

    #[test]
    fn a_file_is_read_back() {
        let file = attachment().encode();
        assert_eq!(
            String::from_utf8(file.clone()).unwrap(),
            r#"{"v":1,"container":"0a1b","interface":"eth0","namespace":"shop","name":"cart-0","uid":"8f6c","netns":"/run/netns/x","netnsInode":4026532000,"netnsCookie":17,"addresses":["10.1.1.2","fd00::2"],"boot":"b00","attachedUnixSeconds":1700000000}"#
        );
        assert_eq!(Attachment::decode(&attachment().key, &file).unwrap(), attachment());
    }

    #[test]
    fn what_is_no_attachment_says_why() {
        let file = String::from_utf8(attachment().encode()).unwrap();
        let reason = |text: &str| {
            Attachment::decode(&attachment().key, text.as_bytes()).unwrap_err().to_string()
        };
        assert_eq!(
            reason(&file.replace("\"v\":1", "\"v\":2")),
            "it is of version 2, and this agent reads version 1"
        );
        assert_eq!(reason(&file.replace("0a1b", "ffff")), "it is of ffff@eth0");
        assert!(reason(&file.replace("cart-0", "../etc")).contains("is no name of a pod"));
        assert!(reason(&file[..20]).starts_with("JSON: EOF"));
        assert!(reason("").starts_with("JSON: EOF"));
    }

    #[test]
    fn who_it_was_is_remembered_of_the_same_pod_only() {
        let was = Remembered { pod: attachment().pod, uid: "8f6c".into(), identity: 70_000 };
        let file = was.encode();
        assert_eq!(
            String::from_utf8(file.clone()).unwrap(),
            r#"{"v":1,"namespace":"shop","name":"cart-0","uid":"8f6c","identity":70000}"#
        );
        assert_eq!(Remembered::decode(&attachment(), &file), Some(was));
        let next = Attachment { uid: "9000".into(), ..attachment() };
        assert_eq!(Remembered::decode(&next, &file), None);
        let other = Attachment { pod: PodName::new("shop", "cart-1").unwrap(), ..attachment() };
        assert_eq!(Remembered::decode(&other, &file), None);
        for torn in [
            "",
            "{",
            "null",
            r#"{"v":2,"namespace":"shop","name":"cart-0","uid":"8f6c","identity":1}"#,
        ] {
            assert_eq!(Remembered::decode(&attachment(), torn.as_bytes()), None, "{torn}");
        }
    }

    #[test]
    fn no_name_leads_out_of_the_folder() {
        for container in ["", ".", "..", "../x", "a/b", "/etc/passwd", "-a", "a@b", "a\0b", "ä"] {
            assert!(AttachmentKey::new(container, "eth0").is_err(), "{container:?}");
        }
        for interface in ["", ".", "..", "a/b", "a b", "a:b", "a\0", "sixteen-letters-"] {
            assert!(AttachmentKey::new("a", interface).is_err(), "{interface:?}");
        }
        let longest = "c".repeat(200);
        let key = AttachmentKey::new(&longest, "fifteen-letters").unwrap();
        // Written beside it first, with a dot before and a dot and a process's number behind.
        assert!(key.remembered_file_name().len() + ".".len() + ".4194304".len() <= 255);
        assert!(AttachmentKey::new(&"c".repeat(201), "eth0").is_err());
    }

    #[test]
    fn a_files_name_is_one_attachments() {
        for (container, interface) in [("a-b", "c"), ("a", "b-c"), ("a", "@"), ("a.json", "b.json")]
        {
            let key = AttachmentKey::new(container, interface).unwrap();
            assert_eq!(AttachmentKey::of_file_name(&key.file_name()), Some(key));
        }
        for other in ["", "lock", ".a@eth0.json.12", "a@eth0", "@eth0.json", "a@.json", "a.json"] {
            assert_eq!(AttachmentKey::of_file_name(other), None, "{other:?}");
        }
    }
}
