//! etcd keys: parsing and building them.

mod prefix;

use std::fmt;

use ipnet::IpNet;
use mesh_model::{ClusterName, Identity, PolicyKind, PolicyRef, RecordKey, ServiceName};

use crate::excerpt::shown;
pub use prefix::{Layout, Prefix};

/// A parsed key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// `cilium/cluster-config/<cluster>`.
    ClusterConfig(ClusterName),
    /// `cilium/synced/<cluster>/<prefix>`; `None` for a prefix this version does not know.
    Canary(ClusterName, Option<(Layout, Prefix)>),
    /// `cilium/.heartbeat`.
    Heartbeat,
    /// `cilium/.heartbeat.position`.
    Position,
    /// `cilium/.heartbeat.drain`.
    Drain,
    /// `clustermesh/local/v1/position`.
    LocalPosition,
    /// `clustermesh/local/v1/drain`.
    LocalDrain,
    /// A record.
    Record {
        /// The tree that contains it.
        layout: Layout,
        /// The cluster in the key. Keys of identities and addresses have none in [`Layout::State`], and neither have keys for
        /// local nodes.
        cluster: Option<ClusterName>,
        /// The key of the record.
        record: RecordKey,
    },
    /// A key that readers ignore: locks, service exports, keys of later versions.
    Other,
}

/// A key in a known tree is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("key {key:?}: {reason}")]
pub struct InvalidKey {
    /// The key, shortened if it is long. Bytes that are not UTF-8 are replaced.
    pub key: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// The key of the heartbeat, with a timestamp.
pub const HEARTBEAT: &str = "cilium/.heartbeat";
/// The key of a replica's position in its source.
pub const POSITION: &str = "cilium/.heartbeat.position";
/// The key of what is drained, for peers. Absent if nothing is.
pub const DRAIN: &str = "cilium/.heartbeat.drain";
/// The key of the ID of an etcd's history. The writer puts a new ID before it first writes to an etcd.
pub const HISTORY: &str = "cilium/.heartbeat.history";
/// The prefix of all cluster configs.
pub const CLUSTER_CONFIGS: &str = "cilium/cluster-config/";
/// The prefix of all canaries.
pub const CANARIES: &str = "cilium/synced/";
/// The prefix of keys that only local nodes may read.
pub const LOCAL: &str = "clustermesh/local/v1/";
/// The key of the replica's position for local nodes. It is written every second; [`POSITION`] is for all readers.
pub const LOCAL_POSITION: &str = "clustermesh/local/v1/position";
/// The key of what is drained, for local nodes. Absent if nothing is.
pub const LOCAL_DRAIN: &str = "clustermesh/local/v1/drain";
/// The prefix of namespaces for local nodes.
pub const NAMESPACES: &str = "clustermesh/local/v1/namespaces/";
/// The prefix of pods for local nodes. The next segment is the pod's node.
pub const PODS: &str = "clustermesh/local/v1/pods/";
/// The prefix of services for local nodes.
pub const LOCAL_SERVICES: &str = "clustermesh/local/v1/services/";
/// The prefix of endpoint slices for local nodes.
pub const LOCAL_ENDPOINT_SLICES: &str = "clustermesh/local/v1/endpointslices/";
/// The prefix of policies for local nodes. The next segment is the short name of the kind.
pub const POLICIES: &str = "clustermesh/local/v1/policies/";
/// The segment in place of the cluster's name in address keys of [`Layout::State`].
const ADDRESS_SPACE: &str = "default";
/// The maximum length of a name in Kubernetes, in bytes.
const MAX_NAME: usize = 253;

// === impl Key ===

impl Key {
    /// Parses a key. Keys outside the known trees are [`Key::Other`].
    ///
    /// # Errors
    /// If a key in a known tree is malformed.
    pub fn parse(key: &[u8]) -> Result<Self, InvalidKey> {
        let Ok(text) = std::str::from_utf8(key) else {
            let key = shown(&String::from_utf8_lossy(key));
            return Err(InvalidKey { key, reason: "not UTF-8" });
        };
        parse(text).map_err(|reason| InvalidKey { key: shown(text), reason })
    }

    /// The key of a record of `cluster`.
    pub fn of_record(layout: Layout, cluster: &ClusterName, record: RecordKey) -> Self {
        if Prefix::of(record.kind()) == Prefix::Local {
            return Self::Record { layout: Layout::State, cluster: None, record };
        }
        let scoped = layout == Layout::Cache
            || !matches!(record, RecordKey::Identity(_) | RecordKey::Address(_));
        Self::Record { layout, cluster: scoped.then(|| cluster.clone()), record }
    }

    /// The key of the canary of a prefix of `cluster`.
    pub fn canary(cluster: &ClusterName, layout: Layout, prefix: Prefix) -> Self {
        Self::Canary(cluster.clone(), Some((layout, prefix)))
    }
}

impl fmt::Display for Key {
    /// The key in etcd. [`Key::Other`] and canaries of unknown prefixes are shown as `?`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClusterConfig(cluster) => write!(f, "{CLUSTER_CONFIGS}{cluster}"),
            Self::Canary(cluster, Some((layout, prefix))) => {
                write!(f, "{CANARIES}{cluster}/{}", prefix.path(*layout))
            }
            Self::Canary(cluster, None) => write!(f, "{CANARIES}{cluster}/?"),
            Self::Heartbeat => f.write_str(HEARTBEAT),
            Self::Position => f.write_str(POSITION),
            Self::Drain => f.write_str(DRAIN),
            Self::LocalPosition => f.write_str(LOCAL_POSITION),
            Self::LocalDrain => f.write_str(LOCAL_DRAIN),
            Self::Other => f.write_str("?"),
            Self::Record { layout, cluster, record } => {
                match record {
                    RecordKey::Namespace(name) => return write!(f, "{NAMESPACES}{name}"),
                    RecordKey::Pod { node, namespace, name } => {
                        return write!(f, "{PODS}{node}/{namespace}/{name}");
                    }
                    RecordKey::LocalService(name) => return write!(f, "{LOCAL_SERVICES}{name}"),
                    RecordKey::LocalEndpointSlice(name) => {
                        return write!(f, "{LOCAL_ENDPOINT_SLICES}{name}");
                    }
                    RecordKey::Policy(PolicyRef { kind, namespace, name }) => {
                        let slash = if kind.is_namespaced() { "/" } else { "" };
                        let kind = kind.short();
                        return write!(f, "{POLICIES}{kind}/{namespace}{slash}{name}");
                    }
                    _ => write!(f, "{}/", Prefix::of(record.kind()).path(*layout))?,
                }
                match cluster {
                    Some(cluster) => write!(f, "{cluster}/")?,
                    None if matches!(record, RecordKey::Address(_)) => {
                        write!(f, "{ADDRESS_SPACE}/")?
                    }
                    None => {}
                }
                match record {
                    RecordKey::Node(name) => f.write_str(name),
                    RecordKey::Identity(identity) => write!(f, "id/{identity}"),
                    RecordKey::Address(net) if net.prefix_len() == net.max_prefix_len() => {
                        write!(f, "{}", net.addr())
                    }
                    RecordKey::Address(net) => write!(f, "{net}"),
                    RecordKey::Service(name) | RecordKey::EndpointSlice(name) => {
                        write!(f, "{name}")
                    }
                    // Keys for local nodes were written above.
                    _ => Ok(()),
                }
            }
        }
    }
}

fn parse(key: &str) -> Result<Key, &'static str> {
    match key {
        HEARTBEAT => return Ok(Key::Heartbeat),
        POSITION => return Ok(Key::Position),
        DRAIN => return Ok(Key::Drain),
        LOCAL_POSITION => return Ok(Key::LocalPosition),
        LOCAL_DRAIN => return Ok(Key::LocalDrain),
        _ => {}
    }
    if let Some(cluster) = key.strip_prefix(CLUSTER_CONFIGS) {
        return Ok(Key::ClusterConfig(cluster_name(cluster)?));
    }
    if let Some(rest) = key.strip_prefix(CANARIES) {
        let (cluster, prefix) = rest.split_once('/').ok_or("no prefix")?;
        return Ok(Key::Canary(cluster_name(cluster)?, canary_prefix(prefix)));
    }
    if key.starts_with(LOCAL) {
        return parse_local(key);
    }
    for layout in Layout::ALL {
        if let Some(rest) = key.strip_prefix(layout.root()) {
            return parse_record(layout, rest);
        }
    }
    Ok(Key::Other)
}

fn canary_prefix(path: &str) -> Option<(Layout, Prefix)> {
    let named = |(layout, prefix): &(Layout, Prefix)| prefix.path(*layout) == path;
    let both = Layout::ALL.into_iter().flat_map(|l| Prefix::ALL.map(|p| (l, p)));
    both.chain([(Layout::State, Prefix::Local)]).find(named)
}

/// Parses a key for local nodes. Keys that later versions add are [`Key::Other`].
fn parse_local(key: &str) -> Result<Key, &'static str> {
    let record = if let Some(name) = key.strip_prefix(NAMESPACES) {
        RecordKey::Namespace(object_name(name)?.into())
    } else if let Some(rest) = key.strip_prefix(PODS) {
        let (node, rest) = rest.split_once('/').ok_or("too few segments")?;
        let ServiceName { namespace, name } = namespaced(rest)?;
        let (namespace, name) = (namespace.to_string(), name.to_string());
        RecordKey::Pod { node: object_name(node)?.into(), namespace, name }
    } else if let Some(name) = key.strip_prefix(LOCAL_SERVICES) {
        RecordKey::LocalService(namespaced(name)?)
    } else if let Some(name) = key.strip_prefix(LOCAL_ENDPOINT_SLICES) {
        RecordKey::LocalEndpointSlice(namespaced(name)?)
    } else if let Some(rest) = key.strip_prefix(POLICIES) {
        match policy(rest)? {
            Some(policy) => RecordKey::Policy(policy),
            None => return Ok(Key::Other),
        }
    } else {
        return Ok(Key::Other);
    };
    Ok(Key::Record { layout: Layout::State, cluster: None, record })
}

/// `None`: it is of a kind that a later version adds.
fn policy(rest: &str) -> Result<Option<PolicyRef>, &'static str> {
    let (short, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let Some(kind) = PolicyKind::ALL.into_iter().find(|kind| kind.short() == short) else {
        return Ok(None);
    };
    let (namespace, name) = match kind.is_namespaced() {
        true => rest.split_once('/').ok_or("too few segments")?,
        false => ("", rest),
    };
    let namespace = if kind.is_namespaced() { object_name(namespace)? } else { "" };
    Ok(Some(PolicyRef { kind, namespace: namespace.into(), name: object_name(name)?.into() }))
}

fn parse_record(layout: Layout, rest: &str) -> Result<Key, &'static str> {
    let Some((word, rest)) = rest.split_once("/v1/") else {
        return Ok(Key::Other);
    };
    let Some(prefix) = Prefix::from_word(word) else {
        return Ok(Key::Other);
    };
    let (cluster, record) = match (prefix, layout) {
        (Prefix::ServiceExports | Prefix::Local, _) => return Ok(Key::Other),
        (Prefix::Nodes, _) => {
            let (cluster, name) = cluster_and(rest)?;
            (Some(cluster), RecordKey::Node(object_name(name)?.into()))
        }
        (Prefix::Services, _) => {
            let (cluster, name) = cluster_and(rest)?;
            (Some(cluster), RecordKey::Service(namespaced(name)?))
        }
        (Prefix::EndpointSlices, _) => {
            let (cluster, name) = cluster_and(rest)?;
            (Some(cluster), RecordKey::EndpointSlice(namespaced(name)?))
        }
        // Cilium also has `value/` and `locks/` here, which are not for readers.
        (Prefix::Identities, Layout::State) => match rest.strip_prefix("id/") {
            Some(id) => (None, RecordKey::Identity(identity(id)?)),
            None => return Ok(Key::Other),
        },
        (Prefix::Identities, Layout::Cache) => {
            let (cluster, rest) = cluster_and(rest)?;
            match rest.strip_prefix("id/") {
                Some(id) => (Some(cluster), RecordKey::Identity(identity(id)?)),
                None => return Ok(Key::Other),
            }
        }
        (Prefix::Ip, Layout::State) => {
            let (space, address) = rest.split_once('/').ok_or("too few segments")?;
            if space != ADDRESS_SPACE {
                return Err("an address space other than `default`");
            }
            (None, RecordKey::Address(net(address)?))
        }
        (Prefix::Ip, Layout::Cache) => {
            let (cluster, address) = cluster_and(rest)?;
            (Some(cluster), RecordKey::Address(net(address)?))
        }
    };
    Ok(Key::Record { layout, cluster, record })
}

fn cluster_and(rest: &str) -> Result<(ClusterName, &str), &'static str> {
    let (cluster, rest) = rest.split_once('/').ok_or("too few segments")?;
    Ok((cluster_name(cluster)?, rest))
}

fn cluster_name(name: &str) -> Result<ClusterName, &'static str> {
    ClusterName::new(name).map_err(|_| "an invalid cluster name")
}

fn identity(id: &str) -> Result<Identity, &'static str> {
    let canonical = id.bytes().all(|b| b.is_ascii_digit()) && !id.starts_with('0');
    id.parse().ok().filter(|_| canonical).map(Identity::new).ok_or("not a decimal identity")
}

/// Parses an address or prefix. `10.0.0.1` and `10.0.0.1/32` are the same; IPv4-mapped addresses become IPv4.
pub(crate) fn net(text: &str) -> Result<IpNet, &'static str> {
    let (address, length) = match text.split_once('/') {
        None => (text, None),
        Some((address, length)) => (
            address,
            Some(length.parse::<u8>().map_err(|_| "a prefix length that is not a number")?),
        ),
    };
    let address: std::net::IpAddr = address.parse().map_err(|_| "not an IP address")?;
    let address = address.to_canonical();
    let full = if address.is_ipv4() { 32 } else { 128 };
    IpNet::new(address, length.unwrap_or(full))
        .map(|net| net.trunc())
        .map_err(|_| "a prefix longer than its address")
}

fn namespaced(text: &str) -> Result<ServiceName, &'static str> {
    let (namespace, name) = text.split_once('/').ok_or("too few segments")?;
    Ok(ServiceName::new(object_name(namespace)?, object_name(name)?))
}

/// Checks the name of a Kubernetes object: not empty, not `.` or `..`, and no other characters than those of names.
pub(crate) fn object_name(name: &str) -> Result<&str, &'static str> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if name.is_empty() || name.len() > MAX_NAME {
        Err("an object name that is empty or longer than 253 bytes")
    } else if !name.bytes().all(allowed) || name.bytes().all(|b| b == b'.') {
        Err("an object name with characters other than letters, digits, '-', '.' and '_'")
    } else {
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_in_both_layouts() {
        for key in [
            "cilium/.heartbeat",
            "cilium/.heartbeat.position",
            "cilium/cluster-config/alpha",
            "cilium/synced/alpha/cilium/state/nodes/v1",
            "cilium/synced/alpha/cilium/cache/endpointslices/v1",
            "cilium/state/nodes/v1/alpha/alpha-w3",
            "cilium/state/identities/v1/id/458753",
            "cilium/state/ip/v1/default/10.70.1.55",
            "cilium/state/ip/v1/default/fd00:70:2::9b",
            "cilium/state/ip/v1/default/10.0.0.0/8",
            "cilium/state/services/v1/alpha/shop/cart",
            "cilium/state/endpointslices/v1/alpha/shop/cart-x1",
            "cilium/cache/nodes/v1/alpha/alpha-w3",
            "cilium/cache/identities/v1/alpha/id/458753",
            "cilium/cache/ip/v1/alpha/10.70.1.55",
            "cilium/cache/services/v1/alpha/shop/cart",
            "cilium/synced/alpha/clustermesh/local/v1",
            "clustermesh/local/v1/position",
            "clustermesh/local/v1/namespaces/shop",
            "clustermesh/local/v1/pods/n1/shop/cart-1",
            "clustermesh/local/v1/services/shop/cart",
            "clustermesh/local/v1/endpointslices/shop/cart-x1",
            "clustermesh/local/v1/policies/netpol/shop/deny",
            "clustermesh/local/v1/policies/cnp/shop/deny",
            "clustermesh/local/v1/policies/ccnp/deny",
        ] {
            let parsed = Key::parse(key.as_bytes()).unwrap();
            assert_ne!(parsed, Key::Other, "{key}");
            assert_eq!(parsed.to_string(), key);
        }
    }

    #[test]
    fn keys_outside_the_known_trees_are_ignored() {
        for key in [
            "",
            "x",
            "cilium/.initlock/ab/cd",
            "cilium/.heartbeat2",
            "cilium/kvstoremesh-lock/1",
            "cilium/state/identities/v1/value/k8s:app=x;/n1",
            "cilium/state/noderegister/v1/n1",
            "cilium/state/serviceexports/v1/alpha/shop/cart",
            "cilium/state/nodes/v2/alpha/n1",
            "cilium/state/local/v1/alpha/n1",
            "clustermesh/local/v1/policies/p",
            "clustermesh/local/v1/policies/new/shop/deny",
            "clustermesh/local/v1/other/p",
            "clustermesh/local/v2/pods/n1/shop/cart-1",
        ] {
            assert_eq!(Key::parse(key.as_bytes()), Ok(Key::Other), "{key}");
        }
    }

    #[test]
    fn malformed_keys_are_refused() {
        for key in [
            "cilium/state/ip/v1/default/<nil>",
            "cilium/state/ip/v1/other/10.0.0.1",
            "cilium/state/ip/v1/default/10.0.0.0/33",
            "cilium/state/ip/v1/default/fe80::1%eth0",
            "cilium/state/nodes/v1/alpha/..",
            "cilium/state/nodes/v1/alpha/",
            "cilium/state/nodes/v1/alpha",
            "cilium/state/nodes/v1/al/pha/x",
            "cilium/state/services/v1/alpha/shop/../cart",
            "cilium/state/services/v1/alpha/shop/car\0t",
            "cilium/state/services/v1/ALPHA/shop/cart",
            "cilium/state/identities/v1/id/0458753",
            "cilium/state/identities/v1/id/4294967296",
            "cilium/state/identities/v1/id/-1",
            "cilium/state/identities/v1/id/",
            "cilium/cluster-config/",
            "cilium/cluster-config/a/b",
            "cilium/synced/alpha",
            "clustermesh/local/v1/namespaces/",
            "clustermesh/local/v1/namespaces/..",
            "clustermesh/local/v1/namespaces/shop/x",
            "clustermesh/local/v1/pods/n1",
            "clustermesh/local/v1/pods/n1/shop",
            "clustermesh/local/v1/pods/../shop/cart-1",
            "clustermesh/local/v1/pods//shop/cart-1",
            "clustermesh/local/v1/pods/n1/shop/cart-1/x",
            "clustermesh/local/v1/pods/n1/shop/car\0t",
            "clustermesh/local/v1/services/shop",
            "clustermesh/local/v1/services/shop/",
            "clustermesh/local/v1/services/shop/cart/x",
            "clustermesh/local/v1/endpointslices/../cart-x1",
            "clustermesh/local/v1/endpointslices/shop/cart x1",
            "clustermesh/local/v1/policies/netpol",
            "clustermesh/local/v1/policies/netpol/shop",
            "clustermesh/local/v1/policies/netpol/shop/",
            "clustermesh/local/v1/policies/cnp//deny",
            "clustermesh/local/v1/policies/cnp/shop/deny/x",
            "clustermesh/local/v1/policies/ccnp/",
            "clustermesh/local/v1/policies/ccnp/shop/deny",
        ] {
            assert!(Key::parse(key.as_bytes()).is_err(), "{key}");
        }
        assert!(Key::parse(b"cilium/state/nodes/v1/alpha/\xff").is_err());
        let long = format!("cilium/state/nodes/v1/alpha/{}", "x".repeat(254));
        assert!(Key::parse(long.as_bytes()).is_err());
    }
}
