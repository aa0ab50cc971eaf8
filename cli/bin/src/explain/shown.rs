//! The backends of a frontend in the form that is printed (`docs/offline.md`), the same for a computation from files and for
//! an agent's answer.

mod choice;

use mesh_admin::v1::{Absence, Candidate, FrontendExplanation};
use mesh_balance::{Share, Usage};
use mesh_model::{ServiceName, lb::Condition};
use mesh_offline::{ExplainedBackend, ExplainedFrontend, ServiceQuery, Unserved};
use serde::Serialize;

use choice::ShownChoice;

/// A frontend with all backends of its service; or a service without a frontend or a refused record, with the reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShownFrontend {
    /// `NAMESPACE/NAME`; empty if it is not known, or if all services are meant.
    pub(crate) service: String,
    pub(crate) port_name: String,
    /// Its address; `None` if clients cannot connect.
    pub(crate) frontend: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) protocol: Option<String>,
    /// The reasons of the choice: in `explain`, not in `backends`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) choice: Option<ShownChoice>,
    /// How the choice depends on the client's node, as a sentence; `None` if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) locality: Option<String>,
    pub(crate) in_use: Vec<ShownBackend>,
    pub(crate) fallback: Vec<ShownBackend>,
    pub(crate) left_out: Vec<ShownBackend>,
    /// Why there is no backend, as a sentence about each cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) without_backends: Option<String>,
    /// What a kernel has otherwise than this; only where an agent was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) differences: Option<Vec<String>>,
    /// Why there is no frontend, or the record is refused.
    #[serde(flatten)]
    pub(crate) absence: Option<ShownAbsence>,
}

/// The reason why a service has no frontend, or a record is refused.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShownAbsence {
    /// The cluster of the service or record.
    pub(crate) cluster: String,
    /// The refused key in etcd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    /// The reason as a word that does not change.
    pub(crate) why: String,
    /// The reason as a sentence.
    pub(crate) reason: String,
}

/// A backend, and the reason why it is used or not.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShownBackend {
    pub(crate) address: String,
    /// `None` if it has no port that could be used.
    pub(crate) port: Option<u16>,
    /// The name of its port, as its cluster reports it.
    pub(crate) port_name: Option<String>,
    pub(crate) cluster: String,
    pub(crate) node: Option<String>,
    /// The reason as a sentence.
    pub(crate) reason: String,
    /// The reason as a word that does not change.
    pub(crate) why: String,
    /// `ready`, `terminating` or `not-ready`, as its cluster reports it.
    pub(crate) state: String,
    pub(crate) node_answers: bool,
    pub(crate) zone: Option<String>,
    pub(crate) tier: Option<usize>,
    /// Its share of the frontend's new connections, from 0 to 1.
    pub(crate) share: f64,
    /// The cluster that has its address, where that is not the backend's alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) claimed_by: Option<String>,
    /// Other clusters that claim it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) also_claimed_by: Vec<String>,
}

// === impl ShownFrontend ===

impl ShownFrontend {
    /// From files.
    pub(crate) fn new(explained: &ExplainedFrontend) -> Self {
        let ExplainedFrontend { explanation, entries, without_backends } = explained;
        let of = |wanted: fn(Usage) -> bool| -> Vec<ShownBackend> {
            entries.iter().filter(|entry| wanted(entry.usage)).map(ShownBackend::new).collect()
        };
        Self {
            service: explanation.service.to_string(),
            port_name: explanation.port_name.to_string(),
            frontend: Some(explanation.frontend.address.to_string()),
            port: Some(explanation.frontend.port),
            protocol: Some(explanation.frontend.protocol.to_string()),
            choice: Some(ShownChoice::new(explanation)),
            locality: explanation.locality.clone(),
            in_use: of(|usage| matches!(usage, Usage::InUse(_))),
            fallback: of(|usage| usage == Usage::Fallback),
            left_out: of(|usage| usage == Usage::LeftOut),
            without_backends: without_backends.clone(),
            differences: None,
            absence: None,
        }
    }

    /// From files: a service without a frontend, or a refused record.
    pub(crate) fn absent(unserved: &Unserved) -> Self {
        let Unserved { service, port_name, frontend, cluster, key, word, reason, backends } =
            unserved;
        let absence = ShownAbsence {
            cluster: cluster.to_string(),
            key: key.clone(),
            why: (*word).into(),
            reason: reason.clone(),
        };
        Self {
            port_name: port_name.clone(),
            frontend: frontend.map(|frontend| frontend.address.to_string()),
            port: frontend.map(|frontend| frontend.port),
            protocol: frontend.map(|frontend| frontend.protocol.to_string()),
            left_out: backends.iter().map(ShownBackend::new).collect(),
            ..Self::nowhere(service.as_ref(), absence)
        }
    }

    /// The address, port and protocol, as in `10.0.0.1:80/TCP`.
    pub(crate) fn address(&self) -> Option<String> {
        let (address, protocol) = (self.frontend.as_ref()?, self.protocol.as_ref()?);
        Some(format!("{}/{protocol}", socket(address, self.port?)))
    }

    /// From an agent's answer.
    pub(crate) fn of_agent(reported: &FrontendExplanation) -> Self {
        let of = |usage: &str| -> Vec<ShownBackend> {
            let backends = reported.backends.iter().filter(|backend| backend.usage == usage);
            let mut backends: Vec<ShownBackend> = backends.map(ShownBackend::of_agent).collect();
            backends.sort_by_key(ShownBackend::place);
            backends
        };
        Self {
            service: format!("{}/{}", reported.namespace, reported.name),
            port_name: reported.port_name.clone(),
            frontend: Some(reported.address.clone()),
            port: Some(small(reported.port)),
            protocol: Some(reported.protocol.clone()),
            choice: Some(ShownChoice::of_agent(reported)),
            locality: Some(reported.locality.clone()).filter(|text| !text.is_empty()),
            in_use: of("in-use"),
            fallback: of("fallback"),
            left_out: of("left-out"),
            without_backends: Some(reported.without_backends.clone()).filter(|why| !why.is_empty()),
            differences: Some(reported.differences.clone()),
            absence: None,
        }
    }

    /// Whether this is a port that the query asks for.
    pub(crate) fn has_port(&self, wanted: &ServiceQuery) -> bool {
        let protocol = self.protocol.as_ref().and_then(|word| word.parse().ok());
        let port = self.port.zip(protocol);
        port.is_some_and(|(port, protocol)| wanted.has_port(&self.port_name, port, protocol))
    }

    /// A service of a cluster that has no frontend.
    pub(crate) fn without(
        service: &ServiceName,
        cluster: &str,
        word: &str,
        reason: String,
    ) -> Self {
        let (cluster, why) = (cluster.to_owned(), word.to_owned());
        Self::nowhere(Some(service), ShownAbsence { cluster, key: None, why, reason })
    }

    /// From an agent's answer: a service without a frontend, or a refused record.
    pub(crate) fn absent_of_agent(reported: &Absence) -> Self {
        let Absence {
            namespace,
            name,
            port_name,
            address,
            port,
            protocol,
            cluster,
            key,
            why,
            reason,
        } = reported;
        let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let service = given(name).map(|name| ServiceName::new(namespace, &name));
        let absence = ShownAbsence {
            cluster: cluster.clone(),
            key: given(key),
            why: why.clone(),
            reason: reason.clone(),
        };
        Self {
            port_name: port_name.clone(),
            frontend: given(address),
            port: u16::try_from(*port).ok().filter(|port| *port != 0),
            protocol: given(protocol),
            ..Self::nowhere(service.as_ref(), absence)
        }
    }

    fn nowhere(service: Option<&ServiceName>, absence: ShownAbsence) -> Self {
        Self {
            service: service.map(ToString::to_string).unwrap_or_default(),
            port_name: String::new(),
            frontend: None,
            port: None,
            protocol: None,
            choice: None,
            locality: None,
            in_use: Vec::new(),
            fallback: Vec::new(),
            left_out: Vec::new(),
            without_backends: None,
            differences: None,
            absence: Some(absence),
        }
    }

    /// Whether this is a refused record of another cluster.
    pub(crate) fn is_refused(&self) -> bool {
        let refused = ["refused", "cluster-refused"];
        self.absence.as_ref().is_some_and(|absence| refused.contains(&absence.why.as_str()))
    }

    /// Whether this gives the reason why a service, or a port of it, has no frontend.
    pub(crate) fn has_no_frontend(&self) -> bool {
        let of_others = self.absence.as_ref().is_none_or(|of| of.why == "namespace-not-global");
        !of_others && !self.is_refused()
    }

    /// All backends, each with how it is used.
    pub(crate) fn backends(&self) -> impl Iterator<Item = (&'static str, &ShownBackend)> {
        let all =
            [("in use", &self.in_use), ("fallback", &self.fallback), ("left out", &self.left_out)];
        all.into_iter().flat_map(|(used, backends)| backends.iter().map(move |b| (used, b)))
    }

    /// Without the reasons of the choice.
    pub(crate) fn brief(self) -> Self {
        Self { choice: None, ..self }
    }
}

// === impl ShownBackend ===

impl ShownBackend {
    fn of_agent(reported: &Candidate) -> Self {
        let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        Self {
            address: reported.address.clone(),
            port: Some(small(reported.port)).filter(|port| *port != 0),
            port_name: (reported.port != 0).then(|| reported.port_name.clone()),
            cluster: reported.cluster.clone(),
            node: some(&reported.node),
            reason: reported.because.clone(),
            why: reported.reason.clone(),
            state: reported.condition.clone(),
            node_answers: reported.node_answers,
            zone: some(&reported.zone),
            tier: Some(size(reported.tier)).filter(|tier| *tier > 0),
            share: part(Share(reported.share_billionths)),
            claimed_by: contested(
                &reported.cluster,
                some(&reported.claimed_by),
                &reported.also_claimed_by,
            ),
            also_claimed_by: reported.also_claimed_by.clone(),
        }
    }

    /// Who claims its address, where that is not its cluster alone.
    pub(crate) fn contested(&self) -> Option<String> {
        let claimed_by = self.claimed_by.as_ref()?;
        let also = match self.also_claimed_by.as_slice() {
            [] => String::new(),
            others => format!(", and claimed by {} too", others.join(", ")),
        };
        Some(format!("{} is of {claimed_by}{also}", self.address))
    }

    /// The address, with the port if it has one.
    pub(crate) fn socket(&self) -> String {
        self.port.map_or_else(|| self.address.clone(), |port| socket(&self.address, port))
    }

    /// The key by which backends are sorted.
    fn place(&self) -> (String, Option<std::net::IpAddr>, Option<u16>) {
        (self.cluster.clone(), self.address.parse().ok(), self.port)
    }

    fn new(entry: &ExplainedBackend) -> Self {
        let state = match entry.condition {
            Condition::Ready => "ready",
            Condition::Terminating => "terminating",
            Condition::NotReady => "not-ready",
        };
        Self {
            address: entry.address.to_string(),
            port: entry.port,
            port_name: entry.port_name.clone(),
            cluster: entry.cluster.clone(),
            node: entry.node.clone(),
            reason: entry.reason.clone(),
            why: entry.word.into(),
            state: state.into(),
            node_answers: entry.node_answers,
            zone: entry.zone.clone(),
            tier: entry.tier,
            share: part(entry.share()),
            claimed_by: contested(
                &entry.cluster,
                entry.claimed_by.first().cloned(),
                entry.claimed_by.get(1..).unwrap_or_default(),
            ),
            also_claimed_by: entry.claimed_by.iter().skip(1).cloned().collect(),
        }
    }
}

/// The cluster that has an address, where that is not `cluster` alone.
fn contested(cluster: &str, claimed_by: Option<String>, others: &[String]) -> Option<String> {
    claimed_by.filter(|claimed_by| !others.is_empty() || claimed_by != cluster)
}

/// `address:port`, or `[address]:port` for IPv6.
fn socket(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// A share as a number from 0 to 1.
#[allow(clippy::cast_precision_loss, reason = "billionths are exact enough")]
fn part(share: Share) -> f64 {
    share.0 as f64 / Share::WHOLE.0 as f64
}

/// A port number in an agent's answer; 0 if it is none.
fn small(number: u32) -> u16 {
    u16::try_from(number).unwrap_or_default()
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
