//! What changed becomes entries of tables.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Instant};

use mesh_labels::LabelFilter;
use mesh_merge::{AddressDelta, AddressHolder, Merge, RangeDelta};
use mesh_model::{
    ClusterId, ClusterName, Identity, Labels, PolicyRef, Refusal, RefusalClass, ServiceName,
    identity::NAMESPACE_LABEL,
};
use mesh_pods::{AttachmentKey, Pods, State};
use mesh_policy::{Class, Compiler, Options};
use mesh_policy_kernel::{KernelError, Meant, Sizes, Tables, Writer};
use mesh_policy_rules::{Checked, Governed, parse};

use crate::{
    identities::Identities,
    interfaces::Wanted,
    pods::{Entry, NodePods},
};

/// Compiles the policies of the own cluster for the pods of this node, and keeps the tables of the programs.
#[derive(Debug)]
pub struct Enforcer {
    local: ClusterName,
    compiler: Compiler,
    writer: Writer,
    identities: Identities,
    pods: NodePods,
    host: Vec<IpAddr>,
    /// The addresses of the own cluster's API server, and of the nodes on which it is.
    api_servers: BTreeSet<IpAddr>,
    /// Keeps all labels: the apiserver says which policies name some that it leaves out.
    filter: LabelFilter,
    /// Addresses that could not be written.
    unwritten: BTreeSet<IpAddr>,
    /// Policies that are not in force, and why.
    refused: Vec<(PolicyRef, String)>,
    refused_policies: RefusedPolicies,
    problem: Option<String>,
}

/// What becomes of the pods that a refused policy governs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RefusedPolicies {
    /// In the directions that it governs they may do nothing.
    #[default]
    Closed,
    /// It is as if it were not there.
    Open,
}

/// What changed since the last time.
#[derive(Debug, Default)]
pub struct Change {
    /// Changes of the table of addresses.
    pub addresses: Vec<AddressDelta>,
    /// Changes of the ranges of pods.
    pub ranges: Vec<RangeDelta>,
    /// Identities that have other labels than before, or have them or none now.
    pub identities: Vec<(ClusterId, Identity)>,
    /// Policies that are new, changed or gone.
    pub policies: Vec<PolicyRef>,
    /// The node's pods may be others than before.
    pub pods: bool,
}

// === impl Change ===

impl Change {
    /// Whether nothing did.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
            && self.ranges.is_empty()
            && self.identities.is_empty()
            && self.policies.is_empty()
            && !self.pods
    }
}

// === impl Enforcer ===

impl Enforcer {
    /// With tables in which nothing is.
    pub fn new(
        local: ClusterName,
        options: Options,
        tables: Tables,
        sizes: Sizes,
        refused_policies: RefusedPolicies,
    ) -> Self {
        let mut compiler = Compiler::new(local.as_str(), options);
        compiler.note_changes();
        Self {
            compiler,
            writer: Writer::new(tables, sizes, options),
            local,
            identities: Identities::default(),
            pods: NodePods::default(),
            host: Vec::new(),
            api_servers: BTreeSet::new(),
            filter: LabelFilter::everything(),
            unwritten: BTreeSet::new(),
            refused: Vec::new(),
            refused_policies,
            problem: None,
        }
    }

    /// Takes what changed, and writes it: what addresses and pods refer to first, then these, then what nothing refers to
    /// any more goes.
    pub fn take(&mut self, change: Change, merge: &Merge, pods: &Pods, now: Instant) {
        let Change { addresses, ranges, identities, policies, pods: pods_changed } = change;
        let mut touched: BTreeSet<IpAddr> = std::mem::take(&mut self.unwritten);
        let mut gone = Vec::new();
        for (cluster, identity) in &identities {
            // A class stands for one set of labels: another one is another class, which addresses get below.
            match self.class_of(merge, *cluster, *identity) {
                Some((class, labels)) => {
                    self.compiler.remove_class(&class);
                    self.compiler.put_class(class, labels);
                }
                None => gone.extend(self.class(merge, *cluster, *identity)),
            }
            touched.extend(self.identities.addresses(*cluster, *identity));
        }
        for delta in ranges {
            self.range(delta);
        }
        for policy in policies {
            self.policy(&policy, merge);
        }
        if pods_changed || !identities.is_empty() {
            touched.extend(self.follow_pods(merge, pods, now));
        }
        self.apply(now);
        for delta in addresses {
            let (address, holder) = match delta {
                AddressDelta::Added(address, holder) | AddressDelta::Changed(address, holder) => {
                    (address, Some(holder))
                }
                AddressDelta::Removed(address) => (address, None),
            };
            self.identities.set(address, holder);
            touched.insert(address);
        }
        for address in touched {
            self.place(merge, address, now);
        }
        if !gone.is_empty() {
            gone.iter().for_each(|class| self.compiler.remove_class(class));
            self.apply(now);
        }
    }

    /// Tries again what could not be written, and lets numbers be used again that have rested.
    pub fn tick(&mut self, host: Option<Vec<IpAddr>>, merge: &Merge, pods: &Pods, now: Instant) {
        let rested = self.writer.rested(now);
        self.compiler.reuse(rested);
        let moved = self.follow_api_servers(merge, now);
        if let Some(host) = host.or_else(|| moved.then(|| self.host.clone()))
            && (moved || host != self.host)
        {
            let kube_apiserver = host.iter().any(|address| self.api_servers.contains(address));
            match self.writer.set_host(&host, &Class::Host { kube_apiserver }) {
                Ok(()) => self.host = host,
                Err(error) => self.failed(&error),
            }
            if moved {
                self.writer.move_epoch();
            }
        }
        if self.problem.take().is_some() || !self.unwritten.is_empty() {
            self.take(Change::default(), merge, pods, now);
        }
    }

    /// The pods under policy, with what finds their interfaces.
    pub fn wanted(&self) -> Vec<Wanted> {
        let governed = self.pods.iter().filter(|(_, pod)| self.writer.is_governed(pod.position));
        governed
            .map(|(key, pod)| Wanted {
                key: key.clone(),
                netns: pod.netns.clone(),
                endpoint: pod.number,
            })
            .collect()
    }

    /// Policies that are not in force, and why.
    pub fn refused(&self) -> &[(PolicyRef, String)] {
        &self.refused
    }

    /// What could not be written.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// The API server's addresses are those that the service `kubernetes` has now. Whether they are others than before.
    fn follow_api_servers(&mut self, merge: &Merge, now: Instant) -> bool {
        let found = api_servers(merge, &self.local);
        if found == self.api_servers {
            return false;
        }
        let before = std::mem::replace(&mut self.api_servers, found);
        let moved: Vec<IpAddr> = before.symmetric_difference(&self.api_servers).copied().collect();
        for address in &moved {
            // One outside the mesh is a range of its own.
            let is_outside = self.identities.holder(*address).is_none()
                && merge.range_of(*address).is_none()
                && self.api_servers.contains(address);
            let class = Class::World { v6: address.is_ipv6(), kube_apiserver: true };
            self.writer.set_base((*address).into(), is_outside.then_some(class));
        }
        self.apply(now);
        moved.into_iter().for_each(|address| self.place(merge, address, now));
        true
    }

    fn apply(&mut self, now: Instant) {
        let changes = self.compiler.take_changes();
        if let Err(error) = self.writer.apply(&self.compiler, changes, now) {
            self.failed(&error);
        }
    }

    fn failed(&mut self, error: &KernelError) {
        tracing::warn!(%error, "policies cannot be written to the kernel");
        self.problem = Some(error.to_string());
    }

    fn range(&mut self, delta: RangeDelta) {
        match delta {
            RangeDelta::Set { range, cluster } => {
                let class = Class::Unknown(cluster.as_str().to_owned());
                self.compiler.put_class(class.clone(), Labels::default());
                self.writer.set_base(range, Some(class));
            }
            RangeDelta::Removed { range } => self.writer.set_base(range, None),
        }
    }

    fn policy(&mut self, policy: &PolicyRef, merge: &Merge) {
        self.refused.retain(|(refused, _)| refused != policy);
        let Some(local) = merge.local_policy(policy) else {
            self.compiler.remove_policy(policy);
            return;
        };
        let object = serde_json::from_str(&local.json).map_err(|error| error.to_string());
        let checked = object.and_then(|object| {
            parse(&object, &self.filter).ok_or_else(|| "its kind is unknown".to_owned())
        });
        let Checked { policy: parsed, governs, .. } = match checked {
            Ok(checked) => checked,
            Err(reason) => return self.refused.push((policy.clone(), reason)),
        };
        let refusals = match parsed {
            Ok(parsed) if local.refused.is_empty() => return self.compiler.put_policy(parsed),
            Err(refusals) if local.refused.is_empty() => refusals,
            Ok(_) | Err(_) => local.refused.clone(),
        };
        let reason = refusals.first().map(|one| format!("{}: {}", one.field, one.reason));
        self.refused.push((policy.clone(), reason.unwrap_or_default()));
        // What is a mistake of its author leaves what was valid before.
        if refusals.iter().any(|one| one.class == RefusalClass::Malformed) {
            return;
        }
        match self.refused_policies {
            RefusedPolicies::Closed => {
                let governs: Vec<Governed> =
                    governs.into_iter().map(|one| widened(one, &refusals)).collect();
                self.compiler.put_closed(policy.clone(), &governs);
            }
            RefusedPolicies::Open => self.compiler.remove_policy(policy),
        }
    }

    /// The node's pods are as they are now. Returns addresses that are another pod's, or none's.
    fn follow_pods(&mut self, merge: &Merge, pods: &Pods, now: Instant) -> Vec<IpAddr> {
        let mut touched = Vec::new();
        let mut present: BTreeSet<AttachmentKey> = BTreeSet::new();
        for (attachment, state) in pods.iter() {
            let State::Bound(identity) = state else { continue };
            let Some(labels) = merge.labels_of(&self.local, identity) else { continue };
            let labels = Labels::parse(labels);
            let name = &attachment.pod;
            let ports = merge.local_pod(name.namespace(), name.name());
            let ports = ports.map(|pod| pod.named_ports.clone()).unwrap_or_default();
            present.insert(attachment.key.clone());
            let known = self.pods.get(&attachment.key);
            if known.is_some_and(|known| known.is(attachment, identity, &labels, &ports)) {
                continue;
            }
            touched.extend(self.remove_pod(&attachment.key, now));
            let position = self.compiler.add_subject(labels.clone(), ports.clone());
            let number = match self.writer.add_endpoint(position, now) {
                Ok(number) => number,
                Err(error) => {
                    self.compiler.remove_subject(position);
                    self.failed(&error);
                    continue;
                }
            };
            touched.extend(&attachment.addresses);
            let entry = Entry {
                netns: attachment.netns.path.clone(),
                addresses: attachment.addresses.clone(),
                identity,
                labels,
                ports,
                position,
                number,
            };
            self.pods.insert(attachment.key.clone(), entry);
        }
        let gone: Vec<AttachmentKey> =
            self.pods.keys().filter(|key| !present.contains(*key)).cloned().collect();
        for key in gone {
            touched.extend(self.remove_pod(&key, now));
        }
        touched
    }

    fn remove_pod(&mut self, key: &AttachmentKey, now: Instant) -> Vec<IpAddr> {
        let Some(entry) = self.pods.remove(key) else { return Vec::new() };
        self.compiler.remove_subject(entry.position);
        self.writer.remove_endpoint(entry.position, now);
        entry.addresses
    }

    /// Writes what is at an address.
    fn place(&mut self, merge: &Merge, address: IpAddr, now: Instant) {
        let meant =
            self.identities.holder(address).and_then(|AddressHolder { cluster, identity }| {
                let class = match identity {
                    Identity::REMOTE_NODE => {
                        Class::RemoteNode { kube_apiserver: self.api_servers.contains(&address) }
                    }
                    _ => self.class_of(merge, cluster, identity)?.0,
                };
                let owner = self.pods.at(address);
                Some(Meant { class, identity: identity.get(), ports: Vec::new(), owner })
            });
        if let Err(error) = self.writer.set_place(address, meant.as_ref(), now) {
            self.unwritten.insert(address);
            self.failed(&error);
        }
    }

    /// What an identity of a cluster is to policies, where its labels are known.
    fn class_of(
        &self,
        merge: &Merge,
        cluster: ClusterId,
        identity: Identity,
    ) -> Option<(Class, Labels)> {
        let class = self.class(merge, cluster, identity)?;
        let labels = merge.labels_of(merge.name_of(cluster)?, identity)?;
        Some((class, Labels::parse(labels)))
    }

    fn class(&self, merge: &Merge, cluster: ClusterId, identity: Identity) -> Option<Class> {
        let name = merge.name_of(cluster)?;
        Some(Class::Pod(identity.get(), Arc::from(name.as_str())))
    }
}

/// The addresses of a cluster's API server, and all those of the nodes on which it is.
fn api_servers(merge: &Merge, cluster: &ClusterName) -> BTreeSet<IpAddr> {
    let Some(id) = merge.id_of(cluster) else { return BTreeSet::new() };
    let service = ServiceName { namespace: "default".into(), name: "kubernetes".into() };
    let backends = merge.backends_of(&service).map(|(backend, ..)| backend);
    let mut found: BTreeSet<IpAddr> =
        backends.filter(|backend| backend.cluster == id).map(|backend| backend.address).collect();
    if !found.is_empty() {
        for (_, addresses) in merge.nodes(cluster) {
            if addresses.iter().any(|address| found.contains(address)) {
                found.extend(addresses);
            }
        }
    }
    found
}

/// The pods that a refused policy governs. Where it names a label that the apiserver leaves out, that requirement would match
/// none: then all pods of the namespace, or of the cluster, are meant.
fn widened(mut governed: Governed, refusals: &[Refusal]) -> Governed {
    let names_one = |refusal: &Refusal| {
        let subject = ["podSelector", "endpointSelector"];
        let within = refusal.field.split_once('.').map_or("", |(_, within)| within);
        refusal.class == RefusalClass::FilteredLabel
            && subject.iter().any(|field| within.starts_with(field))
    };
    if refusals.iter().any(names_one) {
        governed.subject.requirements.retain(|one| one.key == NAMESPACE_LABEL);
    }
    governed
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    #[test]
    fn a_subject_with_a_label_that_is_left_out_is_all_of_the_namespace() {
        let object = serde_json::json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": { "namespace": "shop", "name": "x" },
            "spec": { "podSelector": { "matchLabels": { "app": "web", "hash": "1" } } },
        });
        let checked = parse(&object, &LabelFilter::everything()).unwrap();
        let [governed] = &checked.governs[..] else { panic!("{:?}", checked.governs) };
        let refusal =
            |field: &str, class| Refusal { field: field.into(), reason: String::new(), class };
        let keys = |refusal: Refusal| -> Vec<String> {
            let governed = widened(governed.clone(), &[refusal]);
            governed.subject.requirements.into_iter().map(|one| one.key).collect()
        };
        let filtered = RefusalClass::FilteredLabel;
        assert_eq!(
            keys(refusal("spec.podSelector.matchLabels[hash]", filtered)),
            [NAMESPACE_LABEL]
        );
        assert_eq!(keys(refusal("spec.ingress[0].from[0].podSelector", filtered)).len(), 3);
        assert_eq!(keys(refusal("spec.podSelector", RefusalClass::Unsupported)).len(), 3);
    }
}
