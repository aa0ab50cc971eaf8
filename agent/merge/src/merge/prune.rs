//! Removes records that were not reported again, and keeps those that were not understood.

use std::sync::Arc;

use ipnet::IpNet;
use mesh_model::{
    ClusterId, ClusterName, KnownIdentities, Labels, Record, RecordEvent, RecordKey, RecordKind,
    ServiceName,
};

use super::{
    Delta, IdInUse, Merge, PodName, identity_bytes,
    local::{namespace_bytes, pod_bytes, policy_bytes},
};
use crate::{
    addresses,
    addresses::shrink,
    admission::RefusedRecord,
    cluster::{Cluster, UNREPORTED},
    services::ServicePart,
};

/// Whether there was anything to expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    /// There was.
    Something,
    /// There was not.
    Nothing,
}

/// The kinds of records in tables, in the order of removal: what leads somewhere before its target.
const KINDS: [RecordKind; 7] = [
    RecordKind::Service,
    RecordKind::EndpointSlice,
    RecordKind::LocalEndpointSlice,
    RecordKind::LocalService,
    RecordKind::Address,
    RecordKind::Identity,
    RecordKind::Node,
];

impl Merge {
    /// An existing record whose new content was refused: it counts as reported in the current round.
    pub(super) fn keep(&mut self, name: &ClusterName, key: &RecordKey) {
        let claimed = self.claimed_by(name, key);
        let before = self.before(claimed);
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let current = cluster.round(key.kind());
        let kept = match key {
            RecordKey::Node(node) => {
                cluster.nodes.round_mut(node).map(|(entry, round)| (entry.bytes(node), round))
            }
            RecordKey::Identity(identity) => {
                let entry = cluster.identities.get_mut(identity);
                entry.map(|(labels, round)| (identity_bytes(labels), round))
            }
            RecordKey::Address(net) => {
                let bytes = addresses::bytes(*net);
                cluster.addresses.get_mut(*net).map(|entry| (bytes, &mut entry.round))
            }
            RecordKey::Service(service) => cluster.services.get_mut(service).and_then(|part| {
                let bytes = part.record_bytes(service);
                part.record.as_mut().map(|record| (bytes, &mut record.round))
            }),
            RecordKey::LocalService(service) => {
                let local = cluster.services.get_mut(service).and_then(|part| part.local.as_mut());
                local.map(|local| (local.bytes(), &mut local.round))
            }
            RecordKey::EndpointSlice(_) | RecordKey::LocalEndpointSlice(_) => {
                cluster.slices.get_mut(key).map(|slice| (slice.bytes, &mut slice.round))
            }
            RecordKey::Namespace(namespace) => {
                let entry = cluster.namespaces.get_mut(namespace);
                entry.map(|(namespace, round)| (namespace_bytes(namespace), round))
            }
            RecordKey::Pod { namespace, name, .. } => {
                let entry = cluster.pods.get_mut(&PodName::new(namespace, name));
                entry.map(|(pod, round)| (pod_bytes(pod), round))
            }
            RecordKey::Policy(policy) => {
                let entry = cluster.policies.get_mut(policy);
                entry.map(|(policy, round)| (policy_bytes(policy), round))
            }
        };
        if let Some((bytes, round)) = kept {
            let former = std::mem::replace(round, current);
            cluster.note(key.kind(), Some((bytes, former)), Some(bytes));
        }
        self.announce(before);
    }

    /// All records of a kind follow: what is not among them yet may be out of date.
    pub(super) fn begin(&mut self, name: &ClusterName, kind: RecordKind) {
        let claims = matches!(kind, RecordKind::Address | RecordKind::Node);
        let contested = if claims { self.contested_of(name) } else { Vec::new() };
        let before = self.before(contested);
        if let Some(cluster) = self.clusters.get_mut(name) {
            cluster.begin(kind);
        }
        self.announce(before);
    }

    /// A cluster is asked to report everything again: what it reported before counts for nothing until it does.
    pub fn begin_again(&mut self, name: &ClusterName) {
        let before = self.before(self.contested_of(name));
        if let Some(cluster) = self.clusters.get_mut(name) {
            cluster.begin_all();
        }
        self.announce(before);
    }

    /// Records that were not reported in this round are removed.
    pub(super) fn confirm(&mut self, name: &ClusterName, kind: RecordKind) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let current = cluster.round(kind);
        let id = cluster.id;
        self.sweep(name, kind, |round| round != current);
        if matches!(kind, RecordKind::Node | RecordKind::Address) {
            self.place_anew(name);
        }
        if let Some(cluster) = self.clusters.get_mut(name) {
            if !cluster.confirmed.contains(&kind) {
                cluster.confirmed.push(kind);
            }
            if kind == RecordKind::Address {
                (cluster.claims.starting, cluster.claims.restored) = (false, false);
            }
        }
        if matches!(kind, RecordKind::Address | RecordKind::Node) {
            self.name_strays(name);
        }
        self.deltas.push(Delta::Confirmed { cluster: name.clone(), id, kind });
    }

    /// A cluster exports its services in another form: of this one nothing is left, and nothing will come.
    pub(super) fn without(&mut self, name: &ClusterName, kind: RecordKind) {
        self.sweep(name, kind, |_| true);
        if let Some(cluster) = self.clusters.get_mut(name) {
            cluster.confirmed.retain(|confirmed| *confirmed != kind);
        }
    }

    /// Takes a cluster's records from a previous run, of which nothing is known yet in this one: as if they were
    /// reported and not confirmed. Returns those that its grant does not cover.
    pub fn remember(
        &mut self,
        name: &ClusterName,
        id: ClusterId,
        records: Vec<Record>,
        known: KnownIdentities,
    ) -> Result<Vec<RefusedRecord>, IdInUse> {
        let unreported =
            |cluster: &Cluster| cluster.is_unreported() && cluster.id == ClusterId::NONE;
        if !self.clusters.get(name).is_some_and(unreported) {
            return Ok(Vec::new());
        }
        let set = self.set_id(name, id);
        let KnownIdentities { identities, addresses, second } = known;
        if let Some(cluster) = self.clusters.get_mut(name) {
            // It has not announced itself yet, and may have another ID when it does.
            cluster.held = false;
            cluster.claims.restoring = Some(second.into_iter().collect());
        }
        set?;
        let records = records.into_iter().map(RecordEvent::Upsert);
        let records = records.filter_map(|record| self.apply(name, record).err());
        let mut refused: Vec<RefusedRecord> = records.map(|refused| *refused).collect();
        for (identity, labels) in identities {
            self.set_identity(name, identity, &Labels::parse(&labels));
        }
        for address in addresses {
            let cluster = self.clusters.get(name);
            match cluster.map_or(Ok(()), |cluster| cluster.judge.check_address(address.net)) {
                Ok(()) => self.set_address(name, address),
                Err(reason) => {
                    let key = RecordKey::Address(address.net);
                    refused.push(RefusedRecord { key, refused: reason });
                }
            }
        }
        if let Some(cluster) = self.clusters.get_mut(name) {
            (cluster.claims.restoring, cluster.claims.starting) = (None, false);
            cluster.claims.restored = cluster.addresses.len() > 0;
            cluster.claims.restored_id = true;
        }
        Ok(refused)
    }

    /// Removes the records that a cluster only reported in a previous run: it has not reported them again for too long,
    /// or it is another cluster than the one that reported them. Without anything else it has no ID either. Returns
    /// whether there were any.
    pub fn expire(&mut self, name: &ClusterName) -> Expired {
        let Some(cluster) = self.clusters.get(name) else { return Expired::Nothing };
        let before = cluster.counts();
        let forgotten = cluster.is_unreported() && cluster.claims.restored_id;
        for kind in KINDS {
            self.sweep(name, kind, |round| round == UNREPORTED);
        }
        if forgotten && *name != self.local {
            self.assign_id(name, ClusterId::NONE);
        }
        let Some(cluster) = self.clusters.get_mut(name) else { return Expired::Nothing };
        cluster.claims.restored = false;
        if cluster.counts() == before { Expired::Nothing } else { Expired::Something }
    }

    /// Removes the records of a kind whose rounds are `stale`.
    fn sweep(&mut self, name: &ClusterName, kind: RecordKind, stale: impl Fn(u32) -> bool) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        match kind {
            RecordKind::Node => {
                let gone = cluster.nodes.iter().filter(|(_, _, round)| stale(*round));
                let gone: Vec<String> = gone.map(|(node, ..)| node.to_owned()).collect();
                gone.iter().for_each(|node| self.set_node(name, node, None));
            }
            RecordKind::Identity => {
                let Cluster { identities, account, id, .. } = cluster;
                let gone = identities.extract_if(|_, (_, round)| stale(*round));
                self.deltas.extend(gone.map(|(identity, (labels, round))| {
                    account.change(kind, Some((identity_bytes(&labels), round)), None);
                    Delta::Identity { id: *id, identity }
                }));
                shrink(identities);
            }
            RecordKind::Address => {
                let gone = cluster.addresses.iter().filter(|(_, entry)| stale(entry.round));
                let gone: Vec<IpNet> = gone.map(|(net, _)| net).collect();
                gone.into_iter().for_each(|net| self.remove_address(name, net));
                if let Some(cluster) = self.clusters.get_mut(name) {
                    cluster.addresses.shrink();
                }
            }
            RecordKind::Service => {
                let is_stale = |part: &ServicePart| {
                    part.record.as_ref().is_some_and(|record| stale(record.round))
                };
                let gone = services_where(cluster, is_stale);
                gone.into_iter().for_each(|service| self.set_service(name, service, None));
            }
            RecordKind::LocalService => {
                let is_stale = |part: &ServicePart| {
                    part.local.as_ref().is_some_and(|local| stale(local.round))
                };
                let gone = services_where(cluster, is_stale);
                gone.into_iter().for_each(|service| self.set_local_service(name, service, None));
            }
            RecordKind::EndpointSlice | RecordKind::LocalEndpointSlice => {
                let gone = cluster.slices.iter();
                let gone = gone.filter(|(key, slice)| key.kind() == kind && stale(slice.round));
                let gone: Vec<RecordKey> = gone.map(|(key, _)| key.clone()).collect();
                gone.iter().for_each(|slice| self.set_slice(name, slice, None));
            }
            RecordKind::Namespace => {
                let Cluster { namespaces, account, .. } = cluster;
                namespaces.retain(|_, (namespace, round)| {
                    let stays = !stale(*round);
                    if !stays {
                        account.change(kind, Some((namespace_bytes(namespace), *round)), None);
                    }
                    stays
                });
            }
            RecordKind::Pod => {
                let Cluster { pods, account, .. } = cluster;
                let gone = pods.extract_if(|_, (_, round)| stale(*round));
                self.deltas.extend(gone.map(|(name, (pod, round))| {
                    account.change(kind, Some((pod_bytes(&pod), round)), None);
                    Delta::Pod(name)
                }));
            }
            RecordKind::Policy => {
                let Cluster { policies, account, .. } = cluster;
                let gone = policies.extract_if(.., |_, (_, round)| stale(*round));
                self.deltas.extend(gone.map(|(name, (policy, round))| {
                    account.change(kind, Some((policy_bytes(&policy), round)), None);
                    Delta::Policy(name)
                }));
            }
        }
    }

    /// Everything that a cluster reported is gone.
    pub(super) fn forget(&mut self, name: &ClusterName) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        cluster.confirmed.clear();
        cluster.namespaces.clear();
        self.deltas.extend(cluster.pods.drain().map(|(pod, _)| Delta::Pod(pod)));
        let policies = std::mem::take(&mut cluster.policies);
        self.deltas.extend(policies.into_keys().map(Delta::Policy));
        for kind in KINDS {
            self.sweep(name, kind, |_| true);
        }
        if let Some(cluster) = self.clusters.get_mut(name) {
            cluster.forget_account();
        }
    }
}

fn services_where(
    cluster: &Cluster,
    wanted: impl Fn(&ServicePart) -> bool,
) -> Vec<Arc<ServiceName>> {
    let found = cluster.services.iter().filter(|(_, part)| wanted(part));
    found.map(|(service, _)| Arc::clone(service)).collect()
}
