//! The order in which concerns are handled.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use mesh_balance::Rules;
use mesh_follow::PeerCommand;
use mesh_health::{HealthView, Verdict, ViewChange};
use mesh_merge::{Expired, LocalRanges, Merge};
use mesh_model::ClusterName;

use crate::{
    choice::Choice,
    input::{Connection, Input, KubeProxy, Lifted, LocalState, RestoredCluster, Wanted},
    local_pods::NodePods,
    local_readiness::LocalReadiness,
    peers::Peers,
    probe_targets::ProbeTargets,
    program_upgrade::{Known, ProgramUpgrade},
    quarantine::Quarantine,
    restored::Restored,
    staleness::{Staleness, StalenessChange},
};

mod events;
mod following;
mod settle;
mod views;

/// Settings that do not change while an agent runs, and the state that it found when it started.
#[derive(Debug)]
pub struct Config {
    /// The local cluster.
    pub local: ClusterName,
    /// This node.
    pub node: String,
    /// The rules of the balancer.
    pub rules: Rules,
    /// The ranges that no peer may claim.
    pub ranges: LocalRanges,
    /// Routes to the local cluster's other nodes are wanted too.
    pub local_routes: bool,
    /// For how long what an unreachable peer reported is used.
    pub staleness_budget: Duration,
    /// The clusters' state of the previous run, for a kernel that has none.
    pub snapshots: BTreeMap<ClusterName, RestoredCluster>,
    /// Pods whose sockets the programs leave alone now.
    pub unbalanced: BTreeSet<u64>,
    /// The state that the previous run gave to the programs.
    pub local_state: Option<LocalState>,
}

/// The records of all clusters, and the state that this node wants because of them.
#[derive(Debug)]
pub struct Core {
    local: ClusterName,
    node: String,
    local_routes: bool,
    merge: Merge,
    peers: Peers,
    quarantine: Quarantine,
    staleness: Staleness,
    restored: Restored,
    health: HealthView,
    choice: Choice,
    probes: ProbeTargets,
    pods: NodePods,
    readiness: LocalReadiness,
    /// The last look found none.
    has_no_kube_proxy: bool,
    upgrade: ProgramUpgrade,
    /// More of what the previous run left may be pruned than before.
    prune_moved: bool,
    /// Health has not got the clusters' IDs as they are now, and whether these are all.
    ids_moved: bool,
    all_known: bool,
    wanted: Wanted,
}

// === impl Core ===

impl Core {
    /// Nothing was reported yet.
    pub fn new(config: Config, now: Instant) -> Self {
        let Config {
            local,
            node,
            rules,
            ranges,
            local_routes,
            staleness_budget,
            snapshots,
            unbalanced,
            local_state,
        } = config;
        Self {
            merge: Merge::new(local.clone(), ranges),
            peers: Peers::new(),
            quarantine: Quarantine::default(),
            staleness: Staleness::new(staleness_budget),
            restored: Restored::new(snapshots, staleness_budget, now),
            health: HealthView::new(local.clone(), node.clone()),
            choice: Choice::new(rules, local.clone()),
            probes: ProbeTargets::new(),
            pods: NodePods::new(unbalanced),
            readiness: LocalReadiness::new(local_state, now),
            has_no_kube_proxy: false,
            upgrade: ProgramUpgrade::default(),
            prune_moved: false,
            ids_moved: true,
            all_known: false,
            wanted: Wanted::default(),
            local,
            node,
            local_routes,
        }
    }

    /// Takes what happened.
    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Events(name, events, connection) => {
                self.set_connection(&name, connection, now);
                events.into_iter().for_each(|event| self.event(&name, event));
            }
            Input::Connection(name, connection) => {
                if !self.set_connection(&name, connection, now) {
                    return;
                }
            }
            Input::Follow(name, settings) => self.follow(&name, settings, now),
            Input::Unfollow(name) => self.unfollow(&name),
            Input::PeersRead { problems, complete, drained } => {
                self.peers.files_read(problems, complete);
                for name in self.peers.set_drained(drained) {
                    tracing::info!(peer = %name, drained = self.peers.is_drained(&name), "drained here");
                    self.choice.cluster_moved(&name);
                }
                if complete {
                    self.forget_strangers();
                    self.merge.started();
                }
                self.prune_moved = true;
            }
            Input::Verdict(verdict) => self.verdict(verdict),
            Input::Attachments { found, complete, namespaces } => {
                if let Some(namespaces) = namespaces {
                    self.pods.set_namespaces(namespaces, &self.merge, &mut self.wanted);
                }
                self.pods.found(found, complete, &self.merge, &mut self.wanted);
                return;
            }
            Input::KubeProxy(kube_proxy) => {
                self.has_no_kube_proxy = kube_proxy == KubeProxy::Absent;
                self.readiness.set_kube_proxy(kube_proxy);
            }
            Input::Timeout => self.timeout(now),
        }
        self.settle(now);
    }

    /// When there is something to do although nothing happens.
    pub fn next_timeout(&self, now: Instant) -> Option<Instant> {
        let timeouts = [
            self.staleness.next_timeout(),
            self.restored.next_timeout(),
            self.readiness.next_timeout(now),
            self.probes.next_timeout(now),
        ];
        timeouts.into_iter().flatten().min()
    }

    /// The changes of the wanted state since the last call.
    pub fn take_wanted(&mut self) -> Wanted {
        std::mem::take(&mut self.wanted)
    }

    /// Accepts a quarantined peer's updates again, from a new list on.
    pub fn lift_quarantine(&mut self, name: &ClusterName) -> Lifted {
        if !self.peers.is_followed(name) {
            return Lifted::UnknownPeer;
        }
        if !self.quarantine.lift(name) {
            return Lifted::NotQuarantined;
        }
        self.command(name, PeerCommand::Release);
        // What it reported before no longer counts: one kind's old list would be counted together with another's new
        // one.
        self.merge.begin_again(name);
        self.look_at_silence(name);
        tracing::info!(peer = %name, "no longer quarantined: it is listed again");
        Lifted::Relisted
    }

    /// What has to come before the programs of another release may be replaced by ours; `None` if nothing.
    pub fn upgrade_waits_for(&mut self, now: Instant) -> Option<String> {
        let Self { merge, restored, peers, local, upgrade, .. } = self;
        let known = |name: &ClusterName| match merge.has_listed_services(name) {
            true => Known::Listed,
            false if restored.is_in_use(name) => Known::FromSnapshot,
            false => Known::Not,
        };
        let others = peers.names().map(|name| (name.as_str(), known(name)));
        upgrade.waits_for(known(local), peers.are_complete().then_some(others), now)
    }

    fn command(&mut self, name: &ClusterName, command: PeerCommand) {
        self.wanted.commands.push((name.clone(), command));
    }

    /// The clusters' ids, or which clusters there are, may be other than before.
    fn clusters_moved(&mut self) {
        self.choice.clusters_moved();
        self.ids_moved = true;
        self.prune_moved = true;
    }

    /// How a cluster's connection is now. Whether that is new.
    fn set_connection(&mut self, name: &ClusterName, connection: Connection, now: Instant) -> bool {
        if !self.peers.set_connection(name, connection) {
            return false;
        }
        self.choice.cluster_moved(name);
        self.look_at_silence(name);
        if *name == self.local {
            self.readiness.beats(connection.beats, now);
        } else {
            self.look_at_staleness(name, now);
        }
        true
    }

    /// Whether what a cluster reported may be out of date, because nothing that it reports now arrives.
    fn look_at_silence(&mut self, name: &ClusterName) {
        let connected = self.peers.connection(name).connected;
        let silent = !connected || self.quarantine.reason(name).is_some();
        self.merge.set_silent(name, silent);
    }

    fn look_at_staleness(&mut self, name: &ClusterName, now: Instant) {
        match self.staleness.look(name, self.peers.connection(name), now) {
            StalenessChange::None => return,
            StalenessChange::Stale => {
                tracing::warn!(peer = %name, "unreachable for too long: its backends are no longer used");
            }
            StalenessChange::Fresh => {
                tracing::info!(peer = %name, "synced again: its backends are used again");
            }
        }
        self.merge.set_stale(name, self.staleness.is_stale(name));
        self.choice.cluster_moved(name);
    }

    fn verdict(&mut self, verdict: Verdict) {
        match self.health.apply(&verdict) {
            None => {}
            Some(ViewChange::Cluster { cluster, .. }) => {
                self.choice.cluster_moved(&cluster);
                self.probes.nodes_changed(&cluster);
            }
            Some(ViewChange::Node { cluster, node, health }) => {
                if let Some(id) = self.merge.id_of(&cluster) {
                    self.choice.node(id, &node, health, &mut self.wanted.changes);
                }
                self.probes.nodes_changed(&cluster);
            }
        }
        if let Verdict::Sockets(ending) = verdict {
            self.wanted.endings.push(ending);
        }
    }

    fn timeout(&mut self, now: Instant) {
        for name in self.staleness.due(now) {
            self.look_at_staleness(&name, now);
        }
        let Some(gone) = self.restored.spend(&self.local, now) else { return };
        for name in gone {
            tracing::warn!(peer = %name, "unreachable for too long: its state from before is no longer used");
            if self.merge.expire(&name) == Expired::Something {
                self.restored.expired(name);
            }
        }
        self.merge.start_is_over();
        self.clusters_moved();
        self.release_held();
    }
}
