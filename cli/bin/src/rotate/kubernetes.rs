//! A cluster in Kubernetes: `clustermesh-apiserver ca` in the pods of its apiserver does the work, and no key leaves the cluster.
//!
//! Kubelets give agents what Secrets have after a while. So before a CA signs, or is forgotten, this waits until all agents have
//! seen what came before.

mod agents;

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use mesh_certs::{Bundle, details};
use mesh_model::ClusterName;
use mesh_wire::{
    peering::{Description, PeerEntries, SECRET},
    rotation::CaState,
    users_file::REMOTE_ROLE,
};

use agents::Seen;

use super::{
    Etcd, Rotated,
    cluster::{Aim, is_young},
    etcd::is_right,
    plan::{Facts, Leaf, PeerFacts, Todo},
};
use crate::{
    args::RotateArgs,
    connect::{described, renew_credentials},
    contexts,
    kube_exec::{Cluster, Component, MeshPod},
    wait::Progress,
};

/// How long a command in a pod may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How long an etcd may take to be started again. A kubelet waits longer before each further start.
const RESTART: Duration = Duration::from_secs(180);
/// The interval of checks meanwhile.
const LOOK: Duration = Duration::from_millis(500);

/// A cluster of a kubeconfig's context.
pub(super) struct InPods<'a> {
    args: &'a RotateArgs,
    cluster: Cluster,
    name: ClusterName,
    /// The clusters that follow it, with their contexts if those are at hand.
    peers: BTreeMap<ClusterName, Option<Cluster>>,
}

/// The CA, and what each pod of the apiserver has of it.
struct Found {
    pods: Vec<(MeshPod, CaState)>,
    /// The trusted CAs.
    trusted: Bundle,
    /// The new one of them, while two are trusted.
    next: Option<Bundle>,
}

impl<'a> InPods<'a> {
    /// Finds the clusters that follow this one.
    pub(super) fn find(cluster: Cluster, args: &'a RotateArgs) -> anyhow::Result<Self> {
        let local = described(&cluster)?;
        let name = ClusterName::new(&local.name)?;
        let mut at_hand = BTreeMap::new();
        for context in &args.peer_contexts {
            let found = contexts::cluster_of(&contexts::find(context)?)?;
            let found = found.with_context(|| {
                format!(
                    "{context} is a cluster directory: copy the files, and name it with --peer-done"
                )
            })?;
            let peer = described(&found)?;
            at_hand.insert(ClusterName::new(&peer.name)?, (found, peer));
        }
        let users = local.users.users.iter().filter(|user| user.role == REMOTE_ROLE);
        let names =
            users.filter_map(|user| ClusterName::new(user.name.strip_prefix("remote-")?).ok());
        let mut peers = BTreeMap::new();
        for peer in names {
            let found = at_hand.remove(&peer).or_else(|| {
                // Another cluster may have a context of that name.
                let found = contexts::cluster_of(&contexts::find(peer.as_str()).ok()?).ok()??;
                let described = described(&found).ok()?;
                let follows = described.uuid.is_some() && knows(&described, &name, &local);
                (described.name == peer.as_str() && follows).then_some((found, described))
            });
            match found {
                // A cluster that has a user but does not follow needs no certificate.
                Some((_, described)) if !knows(&described, &name, &local) => {}
                found => {
                    peers.insert(peer, found.map(|(found, _)| found));
                }
            }
        }
        Ok(Self { args, cluster, name, peers })
    }

    fn pods(&self) -> anyhow::Result<Vec<MeshPod>> {
        let pods = self.cluster.pods(Component::Apiserver)?;
        if pods.is_empty() {
            self.cluster.usable(Component::Apiserver)?;
        }
        Ok(pods)
    }

    /// Runs `ca` in a pod. Returns the CA as it is afterwards.
    fn ca(&self, pod: &MeshPod, command: &[&str]) -> anyhow::Result<CaState> {
        let lifetime = self.args.lifetime.map(|lifetime| format!("{}s", lifetime.as_secs()));
        let flags = lifetime.iter().flat_map(|lifetime| ["--certificate-lifetime", lifetime]);
        let command: Vec<&str> = ["clustermesh-apiserver", "ca"]
            .into_iter()
            .chain(flags)
            .chain(command.iter().copied())
            .collect();
        let output = self.cluster.exec(pod, &command, &[], LIMIT)?;
        serde_json::from_slice(&output).with_context(|| {
            format!(
                "{}: {}: the answer of `{}`",
                self.cluster.context(),
                pod.name,
                command.join(" ")
            )
        })
    }

    fn in_one(&self, command: &[&str]) -> anyhow::Result<()> {
        self.ca(&self.cluster.usable(Component::Apiserver)?, command).map(|_| ())
    }

    fn in_all(&self, command: &[&str]) -> anyhow::Result<()> {
        self.pods()?.iter().try_for_each(|pod| self.ca(pod, command).map(|_| ()))
    }

    fn look(&self) -> anyhow::Result<Found> {
        let mut pods = Vec::new();
        for pod in self.pods()? {
            let state = self.ca(&pod, &["describe"])?;
            pods.push((pod, state));
        }
        let (_, first) = pods.first().context("no pod of the apiserver")?;
        let trusted = Bundle::parse(&first.trusted).context("Secret clustermesh-ca: ca.crt")?;
        let next = trusted.each().last().filter(|_| trusted.len() > 1);
        Ok(Found { pods, trusted, next })
    }

    fn peer(&self, name: &str) -> anyhow::Result<&Cluster> {
        let found = self.peers.iter().find(|(peer, _)| peer.as_str() == name);
        found.and_then(|(_, at)| at.as_ref()).with_context(|| format!("{name} is not at hand"))
    }

    fn peer_facts(
        &self,
        found: &Found,
        aim: Aim,
        name: &ClusterName,
        at: Option<&Cluster>,
    ) -> anyhow::Result<PeerFacts> {
        let mut facts = PeerFacts {
            name: name.to_string(),
            done: self.args.peers_done.iter().any(|done| done == name.as_str()),
            stale: aim != Aim::Young { server: true, clients: false },
            ..PeerFacts::default()
        };
        if let Some(at) = at {
            let secret = described(at)?.secret;
            let entries = PeerEntries::new(&self.name);
            let text = |entry: &str| secret.entries.get(entry).cloned().unwrap_or_default();
            let trusts = Bundle::parse(&text(&entries.ca)).unwrap_or_default();
            let newest = found.next.as_ref().unwrap_or(&found.trusted);
            facts.at_hand = true;
            facts.alone = trusts == *newest;
            facts.trusts = facts.alone || trusts.includes(&found.trusted);
            let has_key = secret.keys.iter().any(|peer| *peer == self.name.as_str());
            facts.stale = !has_key || self.is_stale(found, aim, &text(&entries.certificate), true);
        }
        Ok(facts)
    }

    /// Whether a certificate is to be replaced. `client`: it is no server's.
    fn is_stale(&self, found: &Found, aim: Aim, certificate: &str, client: bool) -> bool {
        match aim {
            Aim::NewCa => !found.next.as_ref().is_some_and(|next| next.signed(certificate)),
            Aim::Young { server, clients } => {
                let now = SystemTime::now();
                let is_young = details(certificate).is_ok_and(|all| {
                    all.first().is_some_and(|found| is_young(found, now, self.args.min_age))
                });
                (if client { clients } else { server }) && !is_young
            }
        }
    }

    /// Starts an etcd again, and waits until it is as a step wants it, and its pod is ready.
    fn restart(
        &self,
        found: &Found,
        pod: &MeshPod,
        todo: &Todo,
    ) -> anyhow::Result<Result<(), String>> {
        let command = ["clustermesh-apiserver", "stop-etcd"];
        self.cluster.exec_in((&pod.name, "etcd"), &command, &[], LIMIT)?;
        let mut progress = Progress::new();
        let began = Instant::now();
        loop {
            thread::sleep(LOOK);
            let why = match found.is_right(&self.ca(pod, &["describe"])?, todo) {
                Ok(()) if self.is_ready(pod)? => return Ok(Ok(())),
                Ok(()) => "its pod is not ready yet".to_owned(),
                Err(why) => why,
            };
            if began.elapsed() > RESTART {
                return Ok(Err(format!("{}: {why}", pod.name)));
            }
            progress.show(&format!("waiting for the etcd of {}: {why}", pod.name));
        }
    }

    fn is_ready(&self, pod: &MeshPod) -> anyhow::Result<bool> {
        let (name, namespace) = (pod.name.clone(), self.cluster.namespace().to_owned());
        let found = self.cluster.request(move |client| async move {
            Api::<Pod>::namespaced(client, &namespace).get(&name).await
        })?;
        let conditions = found.status.and_then(|status| status.conditions).unwrap_or_default();
        Ok(conditions.iter().any(|found| found.type_ == "Ready" && found.status == "True"))
    }
}

impl Rotated for InPods<'_> {
    fn facts(&self, aim: Aim) -> anyhow::Result<Facts> {
        let found = self.look()?;
        let signer = |state: &CaState| Bundle::parse(&state.signer).ok();
        let is_stale = |leaf: &Leaf| {
            found.pods.iter().any(|(_, state)| {
                let text = state.certificates.get(leaf.name()).cloned().unwrap_or_default();
                self.is_stale(&found, aim, &text, *leaf != Leaf::Server)
            })
        };
        let peers =
            self.peers.iter().map(|(name, at)| self.peer_facts(&found, aim, name, at.as_ref()));
        let taken =
            |state: &CaState| Bundle::parse(&state.in_pod).is_ok_and(|cas| cas == found.trusted);
        Ok(Facts {
            begun: found.next.is_some(),
            trusted: found.next.is_some() && found.pods.iter().all(|(_, state)| taken(state)),
            signs: found.next.is_some()
                && found.pods.iter().all(|(_, state)| signer(state) == found.next),
            alone: false,
            leftovers: false,
            stale: Leaf::ALL.into_iter().filter(is_stale).collect(),
            peers: peers.collect::<anyhow::Result<_>>()?,
        })
    }

    fn carry_out(&self, todo: &Todo) -> anyhow::Result<()> {
        let newest = || -> anyhow::Result<String> {
            let found = self.look()?;
            let newest = found.next.unwrap_or(found.trusted);
            newest.subjects().pop().context("there is no CA")
        };
        match todo {
            Todo::NewCa => self.in_one(&["succeed"]),
            Todo::Trust => self.in_all(&["renew"]),
            Todo::PeerTrusts(peer) | Todo::IssueFor(peer) | Todo::PeerForgets(peer) => {
                renew_credentials(self.peer(peer)?, &self.cluster)
            }
            Todo::Sign => {
                self.agents_see(Seen::Trusts(&newest()?))?;
                self.in_one(&["sign"])?;
                self.in_all(&["renew"])
            }
            // All agents have the same.
            Todo::Issue(Leaf::Local) => self.in_one(&["renew", "--again", Leaf::Local.name()]),
            Todo::Issue(leaf) => self.in_all(&["renew", "--again", leaf.name()]),
            Todo::Forget => {
                self.agents_see(Seen::IsOf(&newest()?))?;
                self.in_one(&["forget"])?;
                self.in_all(&["renew"])
            }
            Todo::Clean
            | Todo::AskPeer(_)
            | Todo::AskPeerForRequest(_)
            | Todo::EtcdTrusts
            | Todo::EtcdForgets => Ok(()),
        }
    }

    /// One etcd after another: agents use another replica meanwhile.
    fn etcd(&self, todo: &Todo) -> anyhow::Result<Etcd> {
        let found = self.look()?;
        let mut done = Etcd::AsItShould;
        for (pod, state) in &found.pods {
            if found.is_right(state, todo).is_ok() {
                continue;
            }
            if let Err(why) = self.restart(&found, pod, todo)? {
                return Ok(Etcd::Late(why));
            }
            done = Etcd::Restarted;
        }
        Ok(done)
    }

    fn to_ask(&self, todo: &Todo) -> String {
        let (context, namespace) = (self.cluster.context(), self.cluster.namespace());
        match todo {
            Todo::AskPeer(peer) => format!(
                r#"{peer} must trust both CAs first, and its context is not at hand: name it with --peer-context. Otherwise make what `kubectl --context {context} --namespace {namespace} get secret clustermesh-ca --output go-template='{{{{index .data "ca.crt"}}}}'` prints the entry {} of its Secret {SECRET}, then run this again with --peer-done {peer}"#,
                PeerEntries::new(&self.name).ca
            ),
            Todo::AskPeerForRequest(peer) => format!(
                "{peer} needs a new certificate, and its context is not at hand: name it with --peer-context, or run `clustermesh connect` where both are"
            ),
            todo => todo.to_string(),
        }
    }
}

impl Found {
    /// Whether the etcd of a pod is as a step wants it; if not, says why.
    fn is_right(&self, state: &CaState, todo: &Todo) -> Result<(), String> {
        if let Some(error) = &state.etcd_error {
            return Err(format!("it cannot be asked: {error}"));
        }
        let next = self.next.as_ref().map(Bundle::subjects).unwrap_or_default();
        is_right(todo, &state.etcd, &self.trusted.subjects(), &next)
    }
}

/// Whether a cluster follows the local one.
fn knows(described: &Description, name: &ClusterName, local: &Description) -> bool {
    let file = described.secret.entries.get(name.as_str());
    let file = file.and_then(|text| mesh_wire::peer_file::PeerFile::parse(text).ok());
    let grant = file.and_then(|file| file.clustermesh);
    grant.is_some_and(|grant| grant.uuid.is_some() && grant.uuid == local.uuid)
}
