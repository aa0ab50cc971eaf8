use std::collections::BTreeMap;

use mesh_cni::Netns;

use super::*;

/// A pod's attachment.
pub(crate) fn attachment(container: &str, pod: &str, uid: &str) -> Attachment {
    Attachment {
        key: key(container),
        pod: name(pod),
        uid: uid.into(),
        netns: Netns { path: format!("/run/netns/{container}").into(), inode: 17, cookie: 3 },
        addresses: vec!["10.1.1.2".parse().unwrap()],
        boot: "b00".into(),
        attached_unix_seconds: 0,
    }
}

fn key(container: &str) -> AttachmentKey {
    AttachmentKey::new(container, "eth0").unwrap()
}

fn name(pod: &str) -> PodName {
    PodName::new("shop", pod).unwrap()
}

/// What a cluster reports: pods by name, each with its uid and ID; and whether their sockets are left alone.
#[derive(Default)]
struct Cluster(BTreeMap<PodName, (String, Option<Identity>)>, bool);

impl Cluster {
    fn says(&mut self, pod: &str, uid: &str, identity: Option<u32>) {
        self.0.insert(name(pod), (uid.into(), identity.map(Identity::new)));
    }
}

impl LocalPods for Cluster {
    fn pod(&self, name: &PodName) -> Option<LocalPod<'_>> {
        self.0.get(name).map(|(uid, identity)| LocalPod {
            uid,
            identity: *identity,
            socket_lb: !self.1,
        })
    }
}

fn bound(identity: u32) -> State {
    State::Bound(Identity::new(identity))
}

#[test]
fn a_pod_that_is_known_is_bound_at_once() {
    let (mut pods, mut cluster) = (Pods::default(), Cluster::default());
    cluster.says("cart-0", "u1", Some(70_000));
    assert_eq!(pods.attach(attachment("c1", "cart-0", "u1"), None, &cluster), bound(70_000));
    assert_eq!(pods.counts(), Counts { bound: 1, waiting: 0 });
    // Reported again, as at every start of the agent, nothing changes.
    assert_eq!(pods.attach(attachment("c1", "cart-0", "u1"), None, &cluster), bound(70_000));
    assert_eq!(pods.iter().count(), 1);
}

#[test]
fn one_that_is_not_waits_for_its_name_and_its_id() {
    let (mut pods, mut cluster) = (Pods::default(), Cluster::default());
    assert_eq!(pods.attach(attachment("c1", "cart-0", "u1"), None, &cluster), State::Waiting);
    cluster.says("cart-1", "u2", Some(70_001));
    assert_eq!(pods.update(&name("cart-1"), &cluster), [], "another pod");
    cluster.says("cart-0", "u1", None);
    assert_eq!(pods.update(&name("cart-0"), &cluster), [], "no ID yet");
    assert_eq!(pods.counts(), Counts { bound: 0, waiting: 1 });
    cluster.says("cart-0", "u1", Some(70_000));
    let now = Identity::new(70_000);
    assert_eq!(
        pods.update(&name("cart-0"), &cluster),
        [Bound { key: key("c1"), before: None, now }]
    );
    assert_eq!(pods.update(&name("cart-0"), &cluster), [], "reported twice, it is bound once");
}

#[test]
fn a_relabelled_pod_becomes_another() {
    let (mut pods, mut cluster) = (Pods::default(), Cluster::default());
    cluster.says("cart-0", "u1", Some(70_000));
    pods.attach(attachment("c1", "cart-0", "u1"), None, &cluster);
    cluster.says("cart-0", "u1", Some(70_001));
    let before = Some(Identity::new(70_000));
    let now = Identity::new(70_001);
    assert_eq!(pods.update(&name("cart-0"), &cluster), [Bound { key: key("c1"), before, now }]);
    assert_eq!(pods.state(&key("c1")), Some(bound(70_001)));
}

#[test]
fn who_a_pod_was_stays_until_it_is_detached() {
    let (mut pods, mut cluster) = (Pods::default(), Cluster::default());
    cluster.says("cart-0", "u1", Some(70_000));
    pods.attach(attachment("c1", "cart-0", "u1"), None, &cluster);
    // Its object is gone, its container not yet; then an object of its name without an ID.
    cluster.0.clear();
    assert_eq!(pods.update(&name("cart-0"), &cluster), []);
    cluster.says("cart-0", "u1", None);
    assert_eq!(pods.update(&name("cart-0"), &cluster), []);
    assert_eq!(pods.attach(attachment("c1", "cart-0", "u1"), None, &cluster), bound(70_000));
    assert_eq!(pods.state(&key("c1")), Some(bound(70_000)));
    assert_eq!(pods.detach(&key("c1")), Detached::Now);
    assert_eq!(pods.detach(&key("c1")), Detached::Before);
    assert_eq!((pods.state(&key("c1")), pods.counts()), (None, Counts::default()));
    assert!(pods.by_pod.is_empty());
}

#[test]
fn who_a_pod_was_in_the_previous_run_it_is_until_its_cluster_reports_something_else() {
    let (mut pods, mut cluster) = (Pods::default(), Cluster::default());
    let was = Some(Identity::new(70_000));
    assert_eq!(pods.attach(attachment("c1", "cart-0", "u1"), was, &cluster), bound(70_000));
    cluster.says("cart-0", "u1", Some(70_000));
    assert_eq!(pods.update(&name("cart-0"), &cluster), [], "nothing new");
    cluster.says("cart-0", "u1", Some(70_001));
    assert_eq!(pods.update(&name("cart-0"), &cluster).len(), 1);
    // What is known now counts more than what was.
    assert_eq!(pods.attach(attachment("c1", "cart-0", "u1"), was, &cluster), bound(70_001));
    assert_eq!(pods.attach(attachment("c2", "cart-0", "u1"), was, &cluster), bound(70_001));
}

#[test]
fn the_next_pod_of_a_name_is_another_pod() {
    let (mut pods, mut cluster) = (Pods::default(), Cluster::default());
    cluster.says("cart-0", "u1", Some(70_000));
    pods.attach(attachment("c1", "cart-0", "u1"), None, &cluster);
    // Its successor is attached before it is reported, and while the first still ends.
    assert_eq!(pods.attach(attachment("c2", "cart-0", "u2"), None, &cluster), State::Waiting);
    cluster.says("cart-0", "u2", Some(70_002));
    assert_eq!(pods.update(&name("cart-0"), &cluster).len(), 1);
    assert_eq!(pods.state(&key("c1")), Some(bound(70_000)));
    assert_eq!(pods.state(&key("c2")), Some(bound(70_002)));
    pods.detach(&key("c1"));
    assert_eq!(pods.state(&key("c2")), Some(bound(70_002)));
}

#[test]
fn a_runtime_that_knows_no_uid_is_served_by_name() {
    let (mut pods, mut cluster) = (Pods::default(), Cluster::default());
    cluster.says("cart-0", "u1", Some(70_000));
    assert_eq!(pods.attach(attachment("c1", "cart-0", ""), None, &cluster), bound(70_000));
    cluster.says("cart-0", "", Some(70_001));
    assert_eq!(pods.attach(attachment("c2", "cart-0", "u9"), None, &cluster), bound(70_001));
}

#[test]
fn a_container_id_may_become_another_pods() {
    let (mut pods, mut cluster) = (Pods::default(), Cluster::default());
    cluster.says("cart-0", "u1", Some(70_000));
    pods.attach(attachment("c1", "cart-0", "u1"), None, &cluster);
    assert_eq!(pods.attach(attachment("c1", "cart-1", "u2"), None, &cluster), State::Waiting);
    cluster.says("cart-0", "u1", Some(70_005));
    assert_eq!(pods.update(&name("cart-0"), &cluster), [], "no attachment is that pod any more");
}

#[test]
fn whose_sockets_are_left_alone_is_as_reported_and_stays_until_something_else_is_reported() {
    let (mut pods, mut cluster) = (Pods::default(), Cluster::default());
    let socket_lb = |pods: &Pods| pods.socket_lb().collect::<Vec<_>>();
    pods.attach(attachment("c1", "cart-0", "u1"), Some(Identity::new(70_000)), &cluster);
    assert_eq!(socket_lb(&pods), [(3, None)], "nothing was reported in this run");
    // Known before it has an ID, and of another pod of the name not at all.
    cluster.1 = true;
    cluster.says("cart-0", "u2", Some(70_001));
    pods.update(&name("cart-0"), &cluster);
    assert_eq!(socket_lb(&pods), [(3, None)]);
    cluster.says("cart-0", "u1", None);
    assert_eq!(pods.update(&name("cart-0"), &cluster), []);
    assert_eq!(socket_lb(&pods), [(3, Some(false))]);
    // Its object goes before its container, and its attachment is read again.
    cluster.0.clear();
    pods.update(&name("cart-0"), &cluster);
    pods.attach(attachment("c1", "cart-0", "u1"), None, &cluster);
    assert_eq!(socket_lb(&pods), [(3, Some(false))]);
    // The next pod in that container begins without an identity.
    pods.attach(attachment("c1", "cart-1", "u3"), None, &cluster);
    assert_eq!(socket_lb(&pods), [(3, None)]);
    cluster.1 = false;
    cluster.says("cart-1", "u3", Some(70_000));
    pods.update(&name("cart-1"), &cluster);
    assert_eq!(socket_lb(&pods), [(3, Some(true))]);
    pods.detach(&key("c1"));
    assert_eq!(socket_lb(&pods), []);
}
