//! NetworkPolicy, as Kubernetes has it (`networking.k8s.io/v1`).

use mesh_model::{Protocol, identity::NAMESPACE_LABEL, names};
use serde_json::Value;

use crate::{
    cidr::Exceptions,
    label_selector::{Keys, normal},
    path::Path,
    port::PROTOCOLS,
    read::{Fields, Reader, quoted},
    rule::{Action, DirectionRules, Peer, Peers, PortMatch, PortRule, Ports, Rule},
    selector::{Operator, Requirement, Selector},
};

/// The names of a direction's fields.
#[derive(Clone, Copy)]
struct Direction {
    rules: &'static str,
    peers: &'static str,
}

const INGRESS: Direction = Direction { rules: "ingress", peers: "from" };
const EGRESS: Direction = Direction { rules: "egress", peers: "to" };
const POLICY_TYPES: [(&str, bool); 2] = [("Ingress", false), ("Egress", true)];

// === impl Reader ===

impl Reader<'_> {
    /// The spec of a NetworkPolicy. An absent one selects all pods of the namespace, as an API server has it.
    pub(crate) fn network_policy(&mut self, object: Fields<'_>, namespace: &str) -> Rule {
        let path = Path::ROOT.field("spec");
        let empty = Value::Object(serde_json::Map::new());
        let spec = self.object(object.get("spec").unwrap_or(&empty), &path);
        let subject = spec
            .get("podSelector")
            .map(|value| self.selector(value, &path.field("podSelector"), Keys::OfPods));
        let subject = subject.unwrap_or_default();
        let ingress = self.direction(spec, &path, INGRESS, namespace);
        let egress = self.direction(spec, &path, EGRESS, namespace);
        let types = self.policy_types(spec, &path);
        // "Egress will be set if the NetworkPolicy has any egress rules."
        let is_egress = types.map_or(!egress.is_empty(), |(_, egress)| egress);
        let is_ingress = types.is_none_or(|(ingress, _)| ingress);
        // The rules of a direction that is not among the types hold for nothing.
        let direction = |is_meant: bool, rules| match is_meant {
            true => DirectionRules { default_deny: true, rules },
            false => DirectionRules::default(),
        };
        Rule {
            subject: normal(subject.and(Requirement::equals(NAMESPACE_LABEL, namespace))),
            ingress: direction(is_ingress, ingress),
            egress: direction(is_egress, egress),
        }
    }

    /// Whether ingress and egress are governed. `None`: that is not said.
    fn policy_types(&mut self, spec: Fields<'_>, path: &Path<'_>) -> Option<(bool, bool)> {
        let path = path.field("policyTypes");
        let items = self.list(spec.get("policyTypes")?, &path);
        let mut types = (false, false);
        for (at, item) in items.iter().enumerate() {
            match self.word(item, &path.index(at), &POLICY_TYPES) {
                Some(true) => types.1 = true,
                Some(false) => types.0 = true,
                None => {}
            }
        }
        (!items.is_empty()).then_some(types)
    }

    fn direction(
        &mut self,
        spec: Fields<'_>,
        path: &Path<'_>,
        direction: Direction,
        namespace: &str,
    ) -> Vec<PortRule> {
        self.each(spec, path, direction.rules, |reader, rule, path| {
            let fields = reader.object(rule, path);
            PortRule {
                path: path.within_spec().to_string(),
                action: Action::Allow,
                peers: reader.peers(fields, path, direction, namespace),
                ports: reader.network_policy_ports(fields, path),
            }
        })
    }

    fn peers(
        &mut self,
        rule: Fields<'_>,
        path: &Path<'_>,
        direction: Direction,
        namespace: &str,
    ) -> Peers {
        let peers = self.each(rule, path, direction.peers, |reader, peer, path| {
            reader.peer(peer, path, namespace)
        });
        // An empty list is as an absent one.
        match peers.is_empty() {
            true => Peers::Any,
            false => Peers::Of(peers.into_iter().flatten().collect()),
        }
    }

    fn peer(&mut self, value: &Value, path: &Path<'_>, namespace: &str) -> Option<Peer> {
        let fields = self.object(value, path);
        let mut selector = |name, keys| {
            fields.get(name).map(|value| self.selector(value, &path.field(name), keys))
        };
        let pods = selector("podSelector", Keys::OfPods);
        let namespaces = selector("namespaceSelector", Keys::OfNamespaces);
        if let Some(block) = fields.get("ipBlock") {
            if pods.is_some() || namespaces.is_some() {
                self.refuse(path, "ipBlock and selectors together: give each an entry of its own");
            }
            let path = path.field("ipBlock");
            let fields = self.object(block, &path);
            return self.cidr_rule(fields, &path, Exceptions::Kubernetes).map(Peer::Cidr);
        }
        let place = match namespaces {
            Some(namespaces) => of_pods(namespaces),
            None if pods.is_some() => {
                Selector::default().and(Requirement::equals(NAMESPACE_LABEL, namespace))
            }
            None => {
                if fields.is_object() {
                    let names = "podSelector, namespaceSelector or ipBlock";
                    self.refuse(path, format!("a peer needs {names}; an absent list means all"));
                }
                return None;
            }
        };
        let requirements = pods.unwrap_or_default().requirements;
        Some(Peer::Pods(requirements.into_iter().fold(place, Selector::and)))
    }

    fn network_policy_ports(&mut self, rule: Fields<'_>, path: &Path<'_>) -> Ports {
        let ports = self.each(rule, path, "ports", Self::network_policy_port);
        match ports.is_empty() {
            true => Ports::Any,
            false => Ports::Of(ports.into_iter().flatten().collect()),
        }
    }

    fn network_policy_port(&mut self, value: &Value, path: &Path<'_>) -> Option<PortMatch> {
        let fields = self.object(value, path);
        let protocol = match fields.get("protocol") {
            Some(value) => self.word(value, &path.field("protocol"), &PROTOCOLS),
            None => Some(Protocol::Tcp),
        };
        let (at, end_at) = (path.field("port"), path.field("endPort"));
        let end = fields.get("endPort").map(|end| self.number(end, &end_at, 1..=u16::MAX));
        let port = fields.get("port");
        if let Some(Value::String(name)) = port {
            let checked = names::port(name);
            if let Err(reason) = checked {
                let hint = match name.parse::<u16>() {
                    Ok(number) => format!("; a number has no quotes: {number}"),
                    Err(_) => String::new(),
                };
                self.refuse(&at, format!("{}: {reason}{hint}", quoted(name)));
            }
            if end.is_some() {
                self.refuse(&end_at, "a range begins with a number, not with a name");
            }
            checked.ok()?;
            return Some(PortMatch::Named { protocol: Some(protocol?), name: name.clone() });
        }
        let Some(port) = port else {
            if end.is_some() {
                self.refuse(&end_at, "a range needs port, its first");
            }
            return Some(PortMatch::Range { protocol: protocol?, first: 0, last: u16::MAX });
        };
        let first = self.number(port, &at, 1..=u16::MAX)?;
        let last = end.unwrap_or(Some(first))?;
        if last < first {
            self.refuse(&end_at, format!("{last} is less than port, {first}"));
        }
        Some(PortMatch::Range { protocol: protocol?, first, last })
    }
}

/// With a requirement that only pods meet: the labels of no node and of no address name a namespace.
fn of_pods(namespaces: Selector) -> Selector {
    let has_label = |requirement: &Requirement| {
        matches!(requirement.operator, Operator::In(_) | Operator::Exists)
    };
    match namespaces.requirements.iter().any(has_label) {
        true => namespaces,
        false => namespaces.and(Requirement::kubernetes(NAMESPACE_LABEL, Operator::Exists)),
    }
}

#[cfg(test)]
mod tests;
