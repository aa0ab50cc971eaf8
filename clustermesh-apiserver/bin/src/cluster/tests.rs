use std::{collections::BTreeMap, fs, path::Path, task::Poll};

use mesh_export::RefusedPolicy;
use mesh_model::{PolicyKind, RefusalClass, object::ObjectKey};

use super::*;
use crate::source::{SourceState, Ticked};

const WAIT: Duration = Duration::from_secs(900);

/// The state of a cluster's thread, with the test's clock.
struct Replica {
    state: State,
    exports: Arc<Exports>,
    view: watch::Receiver<Arc<View>>,
    at: Moment,
    desired: BTreeMap<String, String>,
    versions: Option<BTreeMap<String, String>>,
}

impl Replica {
    fn open(folder: &Path, wait: Duration) -> Self {
        let directory = ClusterDirectory::new(folder);
        let settings = directory.settings().unwrap();
        let filter = LabelFilter::new([]).unwrap();
        let recording = IdentityRecording { wait, adopt: false };
        let (exporter, allocation) =
            open_journal(&directory.journal(), &settings, filter, recording).unwrap();
        let source = Box::new(Manifests::new(&directory, allocation, Vec::new()));
        let exports = Arc::new(Exports::default());
        let (published, view) = watch::channel(Arc::default());
        let (name, metrics) = (settings.name, Metrics::default());
        let state = State::new(name, source, exporter, Arc::clone(&exports), published, metrics);
        // So much later that files of the test count as completely written.
        let now = Moment::now();
        let at = Moment { wall: now.wall + Duration::from_secs(10), ..now };
        Self { state, exports, view, at, desired: BTreeMap::new(), versions: None }
    }

    /// Looks twice, as the thread does if something may be missing.
    fn look(&mut self) {
        self.state.look(self.at);
        self.wait(Duration::from_secs(1));
        self.state.look(self.at);
        self.take();
    }

    fn tick(&mut self, synced: bool) {
        self.state.tick(synced, self.at);
        self.take();
    }

    fn recognise(&mut self, found: &Found) -> Result<(), Lost> {
        let recognised = self.state.recognise(found);
        self.take();
        recognised
    }

    fn change_drain(
        &mut self,
        change: Change,
        asked: &Asked,
    ) -> Result<(Changed, DrainState), NotChanged> {
        let changed = self.state.change_drain(change, asked, self.at);
        self.take();
        changed
    }

    fn wait(&mut self, time: Duration) {
        self.at = Moment { now: self.at.now + time, wall: self.at.wall + time };
    }

    fn take(&mut self) {
        let ExportChanges { keys, versions, .. } = self.exports.take();
        let names: Vec<_> = keys.keys().cloned().collect();
        for ((key, wanted), value) in keys.into_iter().zip(self.state.values(&names)) {
            assert_eq!(value.as_deref().map(mesh_export::fingerprint), wanted, "{key}");
            let key = key.to_string();
            match value {
                Some(value) => {
                    let text = String::from_utf8_lossy(&value).into_owned();
                    self.desired.insert(key, text)
                }
                None => self.desired.remove(&key),
            };
        }
        self.versions = versions;
    }

    fn problems(&self) -> Vec<String> {
        self.view.borrow().problems.iter().map(|problem| problem.message.clone()).collect()
    }

    fn is_complete(&self) -> bool {
        self.view.borrow().complete
    }

    fn revision(&self) -> u64 {
        self.versions.as_ref().unwrap()["Pod"].parse().unwrap()
    }
}

fn open(folder: &Path) -> Replica {
    Replica::open(folder, WAIT)
}

/// A replica that has compared its IDs with an empty etcd.
fn replica(folder: &Path) -> Replica {
    let mut replica = open(folder);
    replica.recognise(&Found::default()).unwrap();
    replica.look();
    replica
}

/// A cluster directory with a pod of each app in a separate file.
fn directory(apps: &[(&str, u8)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let settings = "name: a\nid: 1\nmaxConnectedClusters: 255\npodCIDRs: [10.1.0.0/16]\nserviceCIDRs: [10.101.0.0/16]\nnodeCIDRs: [172.31.1.0/24]\nendpoints: []\n";
    fs::write(folder.path().join("cluster.yaml"), settings).unwrap();
    fs::create_dir(folder.path().join("manifests")).unwrap();
    for (app, last) in apps {
        write(folder.path(), app, &pod(app, *last));
    }
    folder
}

fn pod(app: &str, last: u8) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p{last}, namespace: shop, labels: {{app: {app}}}}}\nspec: {{nodeName: n1}}\nstatus: {{podIP: 10.1.1.{last}}}\n"
    )
}

fn write(folder: &Path, name: &str, text: &str) {
    let manifests = folder.join("manifests");
    fs::write(manifests.join(".new"), text).unwrap();
    fs::rename(manifests.join(".new"), manifests.join(format!("{name}.yaml"))).unwrap();
}

fn identities_of(replica: &Replica) -> Vec<String> {
    let state = replica.desired.iter();
    let apps = state.filter(|(key, _)| key.starts_with("cilium/state/identities/"));
    let apps = apps.map(|(_, value)| {
        value.split(';').next().unwrap_or_default().trim_start_matches("k8s:app=").to_owned()
    });
    let mut apps: Vec<String> = apps.collect();
    apps.sort();
    apps
}

#[test]
fn two_replicas_export_the_same_and_report_their_position() {
    let folder = directory(&[("a", 1), ("b", 2)]);
    let (mut one, mut other) = (replica(folder.path()), replica(folder.path()));
    assert_eq!(one.desired, other.desired);
    assert_eq!(one.revision(), other.revision());

    let before = one.revision();
    write(folder.path(), "c", &pod("c", 3));
    one.look();
    assert_eq!((one.revision(), other.revision()), (before + 1, before));
    // The other replica detects the change by the journal, without an event of the folder.
    other.tick(true);
    assert_eq!(other.revision(), before + 1);
    assert_eq!(one.desired, other.desired);

    // A later run continues from there.
    drop(one);
    assert_eq!(replica(folder.path()).revision(), before + 1);
    // The old content again has a later revision.
    write(folder.path(), "c", "");
    other.look();
    assert_eq!(other.revision(), before + 2);
}

#[test]
fn a_replica_that_missed_content_does_not_report_its_revision() {
    let folder = directory(&[("a", 1)]);
    let (mut one, mut other) = (replica(folder.path()), replica(folder.path()));
    let before = other.revision();
    write(folder.path(), "a", &pod("a", 9));
    one.look();
    write(folder.path(), "a", "a: [");
    one.look();
    assert_eq!(one.revision(), before + 1, "invalid content has no revision");
    for _ in 0..3 {
        other.tick(true);
        one.tick(true);
    }
    assert_ne!(one.desired, other.desired, "no replica can know the content in between");
    assert_eq!((one.revision(), other.revision()), (before + 1, before));
    write(folder.path(), "a", &pod("a", 10));
    other.look();
    one.look();
    assert_eq!(one.desired, other.desired);
    assert_eq!((one.revision(), other.revision()), (before + 2, before + 2));
}

#[test]
fn an_identity_outlives_its_last_pod() {
    let folder = directory(&[("a", 1), ("b", 2)]);
    let mut cluster = replica(folder.path());
    write(folder.path(), "a", &pod("new", 1));
    cluster.look();
    cluster.tick(true);
    assert_eq!(identities_of(&cluster), ["a", "b", "new"]);
    // Its mark is also kept in another run.
    drop(cluster);
    let mut cluster = replica(folder.path());
    cluster.tick(true);
    assert_eq!(identities_of(&cluster), ["a", "b", "new"]);
}

#[test]
fn an_unused_identity_is_freed_after_the_wait() {
    let folder = directory(&[("a", 1), ("b", 2)]);
    let mut cluster = Replica::open(folder.path(), Duration::ZERO);
    cluster.recognise(&Found::default()).unwrap();
    cluster.tick(true);
    cluster.look();
    write(folder.path(), "a", "");
    cluster.look();
    cluster.tick(false);
    cluster.tick(false);
    assert_eq!(identities_of(&cluster), ["a", "b"], "the etcd may have an address with the ID");
    cluster.tick(true);
    assert_eq!(identities_of(&cluster), ["b"]);
}

#[test]
fn nothing_is_allocated_before_the_journal_was_compared() {
    let folder = directory(&[("a", 1)]);
    let mut cluster = open(folder.path());
    cluster.look();
    assert!(identities_of(&cluster).is_empty());
    assert_eq!(cluster.problems(), Vec::<String>::new(), "this is not a problem of the pod");
    assert!(cluster.is_complete());
    let foreign = Found { uuid: Some(Uuid::from_u128(7)), ..Found::default() };
    assert!(cluster.recognise(&foreign).is_err());
    assert!(identities_of(&cluster).is_empty());
    cluster.recognise(&Found::default()).unwrap();
    assert_eq!(identities_of(&cluster), ["a"]);
}

#[test]
fn identities_known_only_to_the_etcd_are_published_and_freed_later() {
    let folder = directory(&[("a", 1)]);
    let mut cluster = replica(folder.path());
    let labels =
        "k8s:app=old;k8s:io.cilium.k8s.policy.cluster=a;k8s:io.kubernetes.pod.namespace=shop;";
    let labels = mesh_model::Labels::parse(labels);
    let identities = vec![(mesh_model::Identity::new(65_600), labels)];
    let found = Found { identities, revision: 40, ..Found::default() };
    cluster.recognise(&found).unwrap();
    assert_eq!(
        identities_of(&cluster),
        ["a", "old"],
        "so that no replica removes it from the etcd"
    );
    cluster.tick(true);
    assert_eq!(identities_of(&cluster), ["a", "old"]);
    assert_eq!(cluster.revision(), 41, "the revision is later than the one that readers know");
}

#[test]
fn a_missing_journal_is_reported_and_stops_nothing_else() {
    let folder = directory(&[("a", 1)]);
    let mut cluster = replica(folder.path());
    let path = ClusterDirectory::new(folder.path()).journal();
    let journal = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    write(folder.path(), "a", &pod("a", 7));
    write(folder.path(), "b", &pod("b", 2));
    cluster.look();
    let problems = cluster.problems();
    assert!(problems.iter().any(|p| p.starts_with("Pod shop/p2: ")), "{problems:?}");
    assert!(problems.iter().all(|p| p.contains("is gone: restore it")), "{problems:?}");
    assert!(cluster.desired.contains_key("cilium/state/ip/v1/default/10.1.1.7"));
    assert_eq!(cluster.versions, None, "readers could not compare it");

    fs::write(&path, journal).unwrap();
    cluster.tick(true);
    cluster.wait(Duration::from_secs(60));
    cluster.tick(true);
    assert_eq!(cluster.problems(), Vec::<String>::new());
    assert_eq!(identities_of(&cluster), ["a", "b"]);
    assert!(cluster.versions.is_some());
}

#[test]
fn a_typo_in_an_annotation_is_reported_and_stops_nothing() {
    let folder = directory(&[("a", 1)]);
    let mut cluster = replica(folder.path());
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop, annotations: {service.cilium.io/global: 'true', clustermesh.dev/minimum-healthy: 'half'}}\nspec: {clusterIP: 10.101.0.10, ports: [{port: 80}]}\n";
    write(folder.path(), "service", service);
    cluster.look();
    let problems = cluster.problems();
    let says = "Service shop/web: clustermesh.dev/minimum-healthy: \"half\" is not a percentage: it must be 1% to 100%";
    assert_eq!(problems, [says]);
    let keys = &cluster.desired;
    assert!(keys.contains_key("cilium/state/services/v1/a/shop/web"));
    assert!(keys["clustermesh/local/v1/services/shop/web"].ends_with(r#""shared":true}"#));
    assert!(keys["cilium/cluster-config/a"].contains("services-and-endpointslices"));
}

/// A service with an endpoint on each of two nodes. Only one of them has a Node.
fn on_two_nodes() -> tempfile::TempDir {
    let folder = directory(&[("a", 1)]);
    write(
        folder.path(),
        "nodes",
        "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: n2, annotations: {clustermesh.dev/drain: 'true'}}\n",
    );
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop, annotations: {service.cilium.io/global: 'true'}}\nspec: {clusterIP: 10.101.0.10, ports: [{port: 80}]}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nports: [{port: 80}]\nendpoints: [{addresses: [10.1.1.1], nodeName: n1}, {addresses: [10.1.2.1], nodeName: n2}, {addresses: [10.1.3.1], nodeName: n3}]\n";
    write(folder.path(), "service", service);
    folder
}

fn backends(cluster: &Replica) -> Vec<&'static str> {
    let service = cluster.desired["cilium/state/services/v1/a/shop/web"].clone();
    ["10.1.1.1", "10.1.2.1", "10.1.3.1"].into_iter().filter(|ip| service.contains(ip)).collect()
}

#[test]
fn a_node_stays_drained_through_restarts_until_it_is_undrained() {
    use crate::drain::{Asked, Change, Changed, Extent};
    let folder = on_two_nodes();
    let mut cluster = replica(folder.path());
    let mut other = replica(folder.path());
    assert_eq!(backends(&cluster), ["10.1.1.1", "10.1.3.1"], "the annotation drains the node");
    let node =
        |node: &str| Asked { cluster: "a".into(), node: node.into(), extent: Extent::Change };
    let before = cluster.revision();
    // A preview changes nothing.
    let preview = Asked { extent: Extent::Preview, ..node("n1") };
    for _ in 0..2 {
        let (changed, drained) = cluster.change_drain(Change::Drain, &preview).unwrap();
        assert_eq!((changed, drained.nodes.len(), drained.endpoints), (Changed::Now, 2, 2));
    }
    assert_eq!((backends(&cluster), cluster.revision()), (vec!["10.1.1.1", "10.1.3.1"], before));

    let (changed, drained) = cluster.change_drain(Change::Drain, &node("n1")).unwrap();
    assert_eq!((changed, drained.cluster, drained.endpoints), (Changed::Now, false, 2));
    assert_eq!(backends(&cluster), ["10.1.3.1"]);
    let (changed, _) = cluster.change_drain(Change::Drain, &node("n1")).unwrap();
    assert_eq!(changed, Changed::Before);
    // Another replica reads the same file, and has a later revision for readers.
    assert_eq!(cluster.revision(), before + 1);
    other.look();
    assert_eq!((backends(&other), other.revision()), (vec!["10.1.3.1"], before + 1));
    drop((cluster, other));

    let mut cluster = replica(folder.path());
    assert_eq!(backends(&cluster), ["10.1.3.1"]);
    let all = Asked::default();
    cluster.change_drain(Change::Drain, &all).unwrap();
    assert!(backends(&cluster).is_empty());
    cluster.change_drain(Change::Undrain, &all).unwrap();
    assert_eq!(backends(&cluster), ["10.1.3.1"], "the node stays drained");
    let (changed, drained) = cluster.change_drain(Change::Undrain, &node("n1")).unwrap();
    assert_eq!((changed, drained.endpoints), (Changed::Now, 1));
    assert_eq!(backends(&cluster), ["10.1.1.1", "10.1.3.1"]);
    let (changed, _) = cluster.change_drain(Change::Undrain, &node("n1")).unwrap();
    assert_eq!(changed, Changed::Before);
}

#[test]
fn refused_drain_requests_have_a_reason_and_change_nothing() {
    use crate::drain::{Asked, Change};
    let folder = on_two_nodes();
    let path = ClusterDirectory::new(folder.path()).drain_file();
    let mut unread = open(folder.path());
    let mut cluster = replica(folder.path());
    let refused = |cluster: &mut Replica, change, name: &str, node: &str| {
        let asked = Asked { cluster: name.into(), node: node.into(), ..Asked::default() };
        let error = cluster.change_drain(change, &asked).unwrap_err().to_string();
        (error, fs::read_to_string(&path).unwrap_or_default())
    };
    for (is_read, change, name, node, says) in [
        (true, Change::Drain, "b", "n1", "this is cluster a, not b"),
        (true, Change::Drain, "", "n9", "cluster a has no node n9"),
        (true, Change::Undrain, "", "n9", "cluster a has no node n9"),
        (true, Change::Undrain, "a", "n2", "node n2 is drained by its annotation"),
        (false, Change::Drain, "a", "n1", "so the nodes are not known"),
    ] {
        let of = if is_read { &mut cluster } else { &mut unread };
        let (error, file) = refused(of, change, name, node);
        assert!(error.contains(says), "{error}");
        assert_eq!(file, "", "{says}");
    }
    // A node without a Node exists if there are endpoints on it.
    let asked = |node: &str| Asked { node: node.into(), ..Asked::default() };
    cluster.change_drain(Change::Drain, &asked("n3")).unwrap();
    cluster.change_drain(Change::Drain, &asked("")).unwrap();
    let (error, _) = refused(&mut cluster, Change::Undrain, "", "n3");
    assert!(error.contains("the whole cluster a is drained, including node n3"), "{error}");

    // A broken file changes nothing, is reported, and is not overwritten.
    fs::write(&path, "nodes: [").unwrap();
    cluster.look();
    assert!(backends(&cluster).is_empty());
    let problems = cluster.problems();
    assert!(problems.iter().any(|p| p.contains("drain.yaml: ")), "{problems:?}");
    let (error, file) = refused(&mut cluster, Change::Undrain, "", "");
    assert!(error.ends_with("correct or remove it first"), "{error}");
    assert_eq!(file, "nodes: [");
    // After a restart its content is not known, so nothing is exported that could contradict it.
    let restarted = replica(folder.path());
    let keys = &restarted.desired;
    assert!(!keys.keys().any(|key| key.contains("/shop/") || key.contains("/ip/")), "{keys:?}");
    assert!(!restarted.is_complete());

    fs::write(&path, "nodes: [n9]").unwrap();
    cluster.look();
    assert_eq!(cluster.problems(), ["drain.yaml: there is no node n9"]);
    assert_eq!(backends(&cluster), ["10.1.1.1", "10.1.3.1"]);
}

#[test]
fn a_namespace_whose_file_is_broken_at_the_start_exports_nothing() {
    let folder = directory(&[("a", 1)]);
    let opted_out = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, annotations: {clustermesh.cilium.io/global: 'false'}}\n";
    write(folder.path(), "ns", opted_out);
    let is_shared = |replica: &Replica| {
        let mut keys = replica.desired.keys();
        keys.any(|key| key.contains("/ip/") || key.contains("/identities/"))
    };
    let before = replica(folder.path());
    assert!(!is_shared(&before) && before.problems().is_empty());
    drop(before);

    write(folder.path(), "ns", &format!("{opted_out}metadata: ["));
    let mut restarted = replica(folder.path());
    assert_eq!(restarted.desired.len(), 1, "the config: {:?}", restarted.desired);
    let problems = restarted.problems();
    assert!(problems[0].contains("ns.yaml:"), "{problems:?}");
    assert!(problems[0].contains("until then, nothing new is exported"), "{problems:?}");
    assert!(
        problems[1].starts_with("1 objects are not exported until all Namespaces"),
        "{problems:?}"
    );
    // It is corrected and broken again: the previous content stays.
    write(folder.path(), "ns", opted_out);
    restarted.look();
    assert!(restarted.is_complete() && !is_shared(&restarted));
    write(folder.path(), "ns", "kind: [");
    write(folder.path(), "b", &pod("b", 2));
    restarted.look();
    assert!(!is_shared(&restarted));
    assert_eq!(restarted.problems().len(), 1);
}

/// A source whose looks block until the test ends them.
struct Slow {
    begun: Sender<()>,
    go_on: Receiver<()>,
    /// How many more looks are necessary.
    unsettled: u32,
    since: Instant,
}

/// A cluster with such a source, a receiver for the beginning of looks, and a sender that ends them.
fn slow(folder: &Path, unsettled: u32) -> (Arc<Cluster>, Receiver<()>, Sender<()>) {
    let directory = ClusterDirectory::new(folder);
    let settings = directory.settings().unwrap();
    let recording = IdentityRecording { wait: WAIT, adopt: false };
    let filter = LabelFilter::new([]).unwrap();
    let (exporter, _) = open_journal(&directory.journal(), &settings, filter, recording).unwrap();
    let ((begun, has_begun), (go_on, gate)) = (channel(), channel());
    let source = Box::new(Slow { begun, go_on: gate, unsettled, since: Instant::now() });
    let cluster = Cluster::start(settings, source, exporter, Metrics::default()).unwrap();
    (cluster, has_begun, go_on)
}

impl Source for Slow {
    fn look(&mut self, _: &mut Exporter, _: Moment) {
        self.begun.send(()).unwrap();
        // It also ends with the test.
        let _ = self.go_on.recv();
        self.unsettled = self.unsettled.saturating_sub(1);
    }

    fn tick(&mut self, _: &mut Exporter, _: bool, _: Moment) -> Ticked {
        Ticked::Nothing
    }

    fn recognise(&mut self, _: &Found, _: &mut Exporter) -> Result<(), Lost> {
        Ok(())
    }

    fn change_drain(
        &mut self,
        _: &mut dyn FnMut(&mut mesh_source::Drain) -> Result<(), NotChanged>,
    ) -> Result<Changed, NotChanged> {
        Ok(Changed::Before)
    }

    fn tell_refused(&mut self, _: Vec<(ObjectKey, Option<RefusedPolicy>)>) {}

    fn state(&self) -> SourceState {
        SourceState { complete: true, away: Some("it is slow".into()), ..SourceState::default() }
    }

    fn next_look(&self) -> Option<Instant> {
        (self.unsettled > 0).then_some(self.since)
    }
}

/// The last object of a file that may be incomplete is not in force yet. An apiserver that ended now would not write it.
#[tokio::test]
async fn a_flush_waits_for_files_that_are_being_written() {
    let folder = directory(&[]);
    let (cluster, has_begun, go_on) = slow(folder.path(), 2);
    let mut flush = Box::pin(cluster.flush());
    let mut is_pending = async || {
        std::future::poll_fn(|context| Poll::Ready(flush.as_mut().poll(context).is_pending())).await
    };
    assert!(is_pending().await);
    has_begun.recv().unwrap();
    go_on.send(()).unwrap();
    has_begun.recv().unwrap();
    assert!(is_pending().await, "another look is necessary");
    go_on.send(()).unwrap();
    flush.await;
}

#[tokio::test]
async fn a_slow_source_delays_no_other_task() {
    let folder = directory(&[]);
    let (cluster, has_begun, go_on) = slow(folder.path(), 0);
    cluster.look();
    has_begun.recv().unwrap();

    // The thread is blocked, but readiness, status and the writer still have their data.
    assert!(!cluster.view().complete);
    assert!(cluster.exports().take().keys.is_empty());
    let asked = Asked::default();
    let mut draining = Box::pin(cluster.change_drain(Change::Drain, asked));
    let mut recognising = Box::pin(cluster.recognise(Found::default()));
    let waiting = std::future::poll_fn(|context| {
        let waiting = draining.as_mut().poll(context).is_pending();
        Poll::Ready(waiting && recognising.as_mut().poll(context).is_pending())
    });
    assert!(waiting.await, "requests to the thread wait");
    // The thread continues, and looks once more for the requests that came meanwhile.
    go_on.send(()).unwrap();
    go_on.send(()).unwrap();
    assert_eq!(draining.await.unwrap().0, Changed::Before);
    recognising.await.unwrap();
    let view = cluster.view();
    assert!(view.complete);
    let since = view.away.as_ref().unwrap().0;
    assert_eq!(view.away(since + Duration::from_secs(9)), None);
    assert_eq!(view.away(since + Duration::from_secs(10)), Some("it is slow"));
    let keys = cluster.exports().take().keys;
    assert!(keys.keys().map(|key| &**key).eq(["cilium/cluster-config/a"]));
}

/// Other clusters grant the ranges of `cluster.yaml`. The cluster with the mistake reports it itself, as long as it exists.
#[test]
fn records_that_other_clusters_refuse_are_a_problem() {
    let folder = directory(&[("a", 1)]);
    let mut cluster = replica(folder.path());
    let problems = |cluster: &mut Replica| -> Vec<String> {
        cluster.look();
        cluster.problems()
    };
    assert_eq!(problems(&mut cluster), [""; 0]);
    let node = |range: &str, address: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: n3}}\nspec: {{podCIDR: {range}}}\nstatus: {{addresses: [{{type: InternalIP, address: {address}}}]}}\n"
        )
    };
    for (range, address, says) in [
        ("10.9.9.0/24", "172.31.1.3", Some("n3: 10.9.9.0/24 is not in podCIDRs of cluster.yaml")),
        ("10.1.9.0/24", "172.31.9.3", Some("n3: 172.31.9.3 is not in nodeCIDRs of cluster.yaml")),
        ("10.1.9.0/24", "172.31.1.3", None),
    ] {
        write(folder.path(), "node", &node(range, address));
        let found = problems(&mut cluster);
        assert_eq!(found.len(), usize::from(says.is_some()), "{found:?}");
        assert!(says.is_none_or(|says| found[0].contains(says)), "{found:?}");
    }
    let stray = pod("a", 2).replace("10.1.1.2", "10.7.1.2");
    write(folder.path(), "stray", &stray);
    let found = problems(&mut cluster);
    assert!(found.len() == 1 && found[0].contains("10.7.1.2/32 is not in podCIDRs"), "{found:?}");
}

#[test]
fn refused_policies_are_problems_and_counted() {
    let folder = directory(&[]);
    let mut cluster = replica(folder.path());
    let policy = |name: &str, spec: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n---\n"
        )
    };
    let refused: String =
        (0..150).map(|n| policy(&format!("p{n:03}"), "{podSelector: 1}")).collect();
    write(folder.path(), "policies", &[&refused, &*policy("valid", "{podSelector: {}}")].concat());
    cluster.look();
    let problems = cluster.problems();
    assert_eq!(problems.len(), 21);
    assert!(
        problems[0].starts_with("NetworkPolicy shop/p000: refused as a whole: "),
        "{problems:?}"
    );
    assert_eq!(problems[20], "130 more policies are refused");
    let view = cluster.view.borrow().clone();
    let message = view.policies.message();
    assert_eq!((message.kinds[0].policies, message.kinds[0].refused), (151, 150));
    assert_eq!(message.refused.len(), 100);
    assert_eq!(message.refused[0].refusals[0].class, "malformed");
    let counts: Vec<_> = view.policies.refused_counts().filter(|(.., count)| *count > 0).collect();
    assert_eq!(counts, [(PolicyKind::NetworkPolicy, RefusalClass::Malformed, 150)]);

    // A version that is understood ends a problem; what is gone is no problem.
    write(folder.path(), "policies", &policy("p000", "{podSelector: {}}"));
    cluster.look();
    assert_eq!(cluster.problems(), [""; 0]);
    assert_eq!(cluster.view.borrow().policies.message().kinds[0].policies, 1);
}
