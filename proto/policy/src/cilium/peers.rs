//! The other ends of a rule of Cilium's kinds.

use serde_json::Value;

use super::Direction;
use crate::{
    cidr::Exceptions,
    label_selector::{Keys, normal},
    path::Path,
    read::{Fields, Reader},
    rule::{CidrRule, Entity, Peer, Peers, Ports},
    selector::Selector,
};

/// The L3 part of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum L3 {
    /// There is none.
    Absent,
    /// These peers.
    Of(Peers),
}

const ENTITIES: [(&str, Option<Entity>); 14] = [
    ("all", None),
    ("world", Some(Entity::World)),
    ("world-ipv4", Some(Entity::WorldIpv4)),
    ("world-ipv6", Some(Entity::WorldIpv6)),
    ("cluster", Some(Entity::Cluster)),
    ("cluster-mesh", Some(Entity::ClusterMesh)),
    ("host", Some(Entity::Host)),
    ("remote-node", Some(Entity::RemoteNode)),
    ("kube-apiserver", Some(Entity::KubeApiserver)),
    ("init", Some(Entity::Init)),
    ("ingress", Some(Entity::Ingress)),
    ("health", Some(Entity::Health)),
    ("unmanaged", Some(Entity::Unmanaged)),
    ("none", Some(Entity::None)),
];

// === impl L3 ===

impl L3 {
    /// The peers of a rule with these ports.
    ///
    /// Members that are absent have no effect on a rule, so one without L3 and without L4 part matches nothing: `- {}` is
    /// how Cilium's documents write a policy that only switches default deny on.
    pub(crate) fn with(self, ports: &Ports) -> Peers {
        match (self, ports) {
            (Self::Of(peers), _) => peers,
            (Self::Absent, Ports::Any) => Peers::Of(Vec::new()),
            (Self::Absent, Ports::Of(_)) => Peers::Any,
        }
    }
}

// === impl Reader ===

impl Reader<'_> {
    pub(super) fn cilium_peers(
        &mut self,
        rule: Fields<'_>,
        path: &Path<'_>,
        direction: Direction,
        scoped: &dyn Fn(Selector) -> Selector,
    ) -> L3 {
        let Direction { endpoints, entities, cidrs, cidr_sets, services, .. } = direction;
        let members: Vec<&str> =
            [Some(endpoints), Some(entities), Some(cidrs), Some(cidr_sets), services]
                .into_iter()
                .flatten()
                .collect();
        let given = rule.given(&members);
        let filled = given.iter().filter(|name| {
            rule.get(name).and_then(Value::as_array).is_some_and(|items| !items.is_empty())
        });
        if filled.count() > 1 {
            let names = given.join(" and ");
            self.refuse(path, format!("{names} together: give each a rule of its own"));
        }
        let mut peers = self.each(rule, path, endpoints, |reader, value, path| {
            let written = reader.selector(value, path, Keys::WithSources);
            Some(Peer::Pods(normal(scoped(written))))
        });
        let mut is_all = false;
        peers.extend(self.each(rule, path, entities, |reader, value, path| {
            let entity = reader.word(value, path, &ENTITIES)?;
            is_all |= entity.is_none();
            entity.map(Peer::Entity)
        }));
        peers.extend(self.each(rule, path, cidrs, |reader, value, path| {
            let cidr = reader.cidr(value, path)?;
            Some(Peer::Cidr(CidrRule { cidr, except: Vec::new(), network_policy: false }))
        }));
        peers.extend(self.each(rule, path, cidr_sets, |reader, value, path| {
            let fields = reader.object(value, path);
            // A group in the range's place was refused.
            let groups = fields.given(&["cidrGroupRef", "cidrGroupSelector"]);
            let rule =
                groups.is_empty().then(|| reader.cidr_rule(fields, path, Exceptions::Cilium));
            rule.flatten().map(Peer::Cidr)
        }));
        if let Some(services) = services {
            peers.extend(self.each(rule, path, services, |reader, value, path| {
                reader.service(value, path).map(Peer::Service)
            }));
        }
        // An empty member matches nothing, whatever else there is.
        let is_empty =
            |name: &&str| rule.get(name).and_then(Value::as_array).is_some_and(Vec::is_empty);
        match given.iter().any(is_empty) {
            true => L3::Of(Peers::Of(Vec::new())),
            false if given.is_empty() => L3::Absent,
            false if is_all => L3::Of(Peers::Any),
            false => L3::Of(Peers::Of(peers.into_iter().flatten().collect())),
        }
    }
}
