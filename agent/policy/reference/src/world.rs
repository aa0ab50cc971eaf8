//! Who is where.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde_json::Value;

use crate::{
    items,
    labels::{self, Labels},
    text,
};

/// The pods, nodes, addresses and policies of a line.
pub(crate) struct World {
    pub(crate) ends: Vec<End>,
    pub(crate) ranges: Vec<(String, IpNet)>,
    pub(crate) policies: Vec<(String, Value)>,
    pub(crate) services: Vec<(String, Value)>,
    pub(crate) options: Value,
}

/// One end of a flow.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct End {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) cluster: String,
    pub(crate) namespace: String,
    pub(crate) node: String,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) labels: Labels,
    pub(crate) ports: Vec<(String, String, u64)>,
    /// The cluster whose API server it is.
    pub(crate) api_of: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Pod,
    Node,
    External,
    /// An address in a pod range that nobody has.
    Unknown,
}

impl World {
    pub(crate) fn new(line: &Value, ranges: &[(String, IpNet)]) -> Self {
        let named = items(line, "/endpoints").iter().chain(items(line, "/policies"));
        let cluster = named.map(|one| text(one, "/cluster")).find(|name| !name.is_empty());
        let cluster = cluster.unwrap_or("default").to_owned();
        let of = |value: &Value| match text(value, "/cluster") {
            "" => cluster.clone(),
            other => other.to_owned(),
        };
        let objects = |path: &str| {
            let all = items(line, path).iter();
            all.map(|one| (of(one), one.get("object").cloned().unwrap_or_default())).collect()
        };
        let mut world = Self {
            ends: Vec::new(),
            ranges: ranges.to_vec(),
            policies: objects("/policies"),
            services: objects("/services"),
            options: line.get("options").cloned().unwrap_or_default(),
        };
        for entry in items(line, "/endpoints") {
            let kind = match text(entry, "/kind") {
                "pod" => Kind::Pod,
                "node" => Kind::Node,
                "external" => Kind::External,
                _ => continue,
            };
            world.ends.push(End::new(kind, entry, &of(entry), &of, line));
        }
        world
    }

    /// An option, or its default.
    pub(crate) fn option<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        self.options.get(name).and_then(Value::as_str).unwrap_or(default)
    }

    /// The end that a flow names.
    pub(crate) fn end(&self, name: &str) -> End {
        let by = |test: &dyn Fn(&End) -> bool| self.ends.iter().find(|end| test(end)).cloned();
        let pod = |end: &End| end.kind == Kind::Pod;
        let address: Option<IpAddr> = name.parse().ok();
        by(&|end| end.name == name)
            .or_else(|| {
                by(&|end| {
                    pod(end) && name == format!("{}/{}/{}", end.cluster, end.namespace, end.name)
                })
            })
            .or_else(|| by(&|end| pod(end) && name == format!("{}/{}", end.namespace, end.name)))
            .or_else(|| {
                // What is named by an address uses that address.
                let end = by(&|end| address.is_some_and(|address| end.ips.contains(&address)))?;
                Some(End { ips: address.into_iter().collect(), ..end })
            })
            .unwrap_or_else(|| self.stranger(address))
    }

    /// An address that nobody has.
    fn stranger(&self, address: Option<IpAddr>) -> End {
        let range = self
            .ranges
            .iter()
            .find(|(_, range)| address.is_some_and(|address| range.contains(&address)));
        End {
            kind: if range.is_some() { Kind::Unknown } else { Kind::External },
            name: String::new(),
            cluster: range.map(|(cluster, _)| cluster.clone()).unwrap_or_default(),
            namespace: String::new(),
            node: String::new(),
            ips: address.into_iter().collect(),
            labels: Labels::new(),
            ports: Vec::new(),
            api_of: None,
        }
    }
}

impl End {
    fn new(
        kind: Kind,
        entry: &Value,
        cluster: &str,
        of: &dyn Fn(&Value) -> String,
        line: &Value,
    ) -> Self {
        let namespace = match text(entry, "/namespace") {
            "" => "default",
            other => other,
        };
        let described = items(line, "/endpoints").iter().find(|one| {
            text(one, "/kind") == "namespace"
                && text(one, "/name") == namespace
                && of(one) == cluster
        });
        let mut of_namespace: BTreeMap<String, String> = BTreeMap::new();
        if let Some(described) = described {
            for (key, value) in crate::fields(described, "/labels") {
                of_namespace.insert(key.clone(), value.as_str().unwrap_or_default().into());
            }
        }
        // Kubernetes, "Automatic labelling" of namespaces.
        of_namespace.insert("kubernetes.io/metadata.name".into(), namespace.into());
        let single = entry.get("ip").into_iter();
        let ips = items(entry, "/ips").iter().chain(single).filter_map(Value::as_str);
        let port = |port: &Value| {
            let number = port.get("containerPort").or_else(|| port.get("port"));
            let protocol = match text(port, "/protocol") {
                "" => "TCP",
                other => other,
            };
            (
                text(port, "/name").to_owned(),
                protocol.to_owned(),
                number.and_then(Value::as_u64).unwrap_or(0),
            )
        };
        let api_of = match text(entry, "/kubeAPIServerOf") {
            "" if entry.get("kubeAPIServer") == Some(&Value::Bool(true)) => {
                Some(cluster.to_owned())
            }
            "" => None,
            other => Some(other.to_owned()),
        };
        Self {
            kind,
            name: text(entry, "/name").into(),
            cluster: cluster.into(),
            namespace: namespace.into(),
            node: if kind == Kind::Node {
                text(entry, "/name").into()
            } else {
                text(entry, "/node").into()
            },
            ips: ips.filter_map(|ip| ip.parse().ok()).collect(),
            labels: if kind == Kind::Pod {
                labels::identity(entry, &of_namespace, cluster)
            } else {
                Labels::new()
            },
            ports: items(entry, "/ports").iter().map(port).collect(),
            api_of,
        }
    }
}
