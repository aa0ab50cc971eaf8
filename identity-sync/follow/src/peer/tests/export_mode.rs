//! In which form services are followed, and how a cluster changes it.

use mesh_model::{EndpointSlice, SliceEndpoint, service::SERVICE_NAME_LABEL};

use super::*;

const BOTH: &str = "services-and-endpointslices";
const ONLY: &str = "endpointslices-only";

fn mode(word: &str) -> String {
    let more = if word.is_empty() {
        String::new()
    } else {
        format!(r#","endpointSlicesExportMode":"{word}""#)
    };
    config(7, &more)
}

/// The config of an apiserver of ours.
fn ours(word: &str) -> String {
    let uuid = r#","clustermesh":{"uuid":"00000000-0000-0000-0000-000000000001","version":1}}"#;
    mode(word).strip_suffix('}').unwrap().to_owned() + uuid
}

fn slice_key(service: &str) -> String {
    format!("cilium/state/endpointslices/v1/alpha/shop/{service}-1")
}

fn put_slice(etcd: &mut FakeEtcd, service: &str) {
    let slice = EndpointSlice {
        cluster: "alpha".into(),
        cluster_id: ClusterId::new(7, ClusterLimit::Max255).unwrap(),
        namespace: "shop".into(),
        name: format!("{service}-1"),
        labels: BTreeMap::from([(SERVICE_NAME_LABEL.into(), service.into())]),
        address_type: "IPv4".into(),
        endpoints: vec![SliceEndpoint {
            addresses: vec!["10.7.0.1".into()],
            ..SliceEndpoint::default()
        }],
        ..EndpointSlice::default()
    };
    let value = mesh_wire::encode(&Record::EndpointSlice(Box::new(slice)));
    etcd.put_bytes(&slice_key(service), &value);
}

fn put_local_services(etcd: &mut FakeEtcd, names: &[&str]) {
    for name in names {
        etcd.put(
            &format!("clustermesh/local/v1/endpointslices/shop/{name}-1"),
            &format!(
                r#"{{"v":1,"namespace":"shop","name":"{name}-1","service":"{name}","addressType":"IPv4","endpoints":[],"ports":[]}}"#
            ),
        );
        etcd.put(
            &format!("clustermesh/local/v1/services/shop/{name}"),
            &format!(r#"{{"v":1,"namespace":"shop","name":"{name}"}}"#),
        );
    }
}

/// What is known of services, in whichever form: kind and name.
fn services(local: &Local) -> BTreeSet<(RecordKind, String)> {
    let name = |(key, (record, _)): (&RecordKey, &(Option<Record>, u32))| match record {
        Some(Record::Service(service)) => Some((key.kind(), service.name.name.to_string())),
        Some(Record::EndpointSlice(slice) | Record::LocalEndpointSlice(slice)) => {
            Some((key.kind(), slice.service()?.name.to_string()))
        }
        Some(Record::LocalService(service)) => Some((key.kind(), service.name.name.to_string())),
        _ => None,
    };
    local.records.iter().filter_map(name).collect()
}

fn set<const N: usize>(all: [(RecordKind, &str); N]) -> BTreeSet<(RecordKind, String)> {
    all.map(|(kind, name)| (kind, name.to_owned())).into()
}

use RecordKind::{EndpointSlice as Slice, LocalEndpointSlice, LocalService, Service};

#[test]
fn slices_are_followed_where_the_cluster_says_that_it_has_them() {
    for (word, expected) in [
        ("", set([(Service, "web")])),
        (BOTH, set([(Slice, "web")])),
        (ONLY, set([(Slice, "web")])),
    ] {
        let mut etcd = alpha();
        etcd.put(CONFIG_KEY, &mode(word));
        put_slice(&mut etcd, "web");
        put_canaries(&mut etcd);
        etcd.put(&canary(Slice), "");
        let (follower, local, _) = settled(&mut etcd);
        assert!(follower.status().is_synced(), "{word}");
        assert_eq!((services(&local), etcd.lists), (expected, 6), "{word}");
    }
}

#[test]
fn slices_need_a_canary_of_their_own_and_come_in_pages() {
    let mut etcd = alpha();
    etcd.put(CONFIG_KEY, &mode(BOTH));
    for n in 0..300 {
        put_slice(&mut etcd, &format!("s{n}"));
    }
    put_canaries(&mut etcd);
    let (mut follower, mut local, mut now) = settled(&mut etcd);
    assert_eq!((services(&local).len(), etcd.lists), (300, 8), "three pages of 128");
    assert!(!follower.status().is_synced());
    etcd.put(&canary(Slice), "");
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert!(follower.status().is_synced());
}

#[test]
fn a_cluster_that_begins_to_export_slices_loses_nothing() {
    let mut etcd = alpha();
    put_canaries(&mut etcd);
    let (mut follower, mut local, mut now) = settled(&mut etcd);
    etcd.put(CONFIG_KEY, &mode(BOTH));
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    put_slice(&mut etcd, "web");
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!(services(&local), set([(Service, "web"), (Slice, "web")]), "used, not synced");
    assert!(!follower.status().is_synced());
    // The services go on until then.
    etcd.put("cilium/state/services/v1/alpha/shop/db", &service(80).replace("web", "db"));
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert!(services(&local).contains(&(Service, "db".into())));

    put_slice(&mut etcd, "db");
    etcd.put(&canary(Slice), "");
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!(services(&local), set([(Slice, "web"), (Slice, "db")]));
    assert!(follower.status().is_synced());
    // And are not followed any more.
    etcd.put(SERVICE, &service(81));
    etcd.delete("cilium/state/services/v1/alpha/shop/db");
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!(services(&local), set([(Slice, "web"), (Slice, "db")]));
}

#[test]
fn what_goes_with_the_previous_mode_takes_nothing_away() {
    let mut etcd = alpha();
    put_canaries(&mut etcd);
    let (mut follower, mut local, mut now) = settled(&mut etcd);
    // The services go as soon as the config changes, and the slices come late.
    etcd.put(CONFIG_KEY, &mode(ONLY));
    etcd.delete(SERVICE);
    etcd.delete(&canary(Service));
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    etcd.pass(&mut follower, &mut now, Duration::from_secs(3_600));
    local.take(&mut follower);
    assert_eq!(services(&local), set([(Service, "web")]));
    assert!(!follower.status().is_synced());
    put_slice(&mut etcd, "web");
    etcd.put(&canary(Slice), "");
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!(services(&local), set([(Slice, "web")]));
    assert!(follower.status().is_synced());

    // The same the other way round.
    etcd.put(CONFIG_KEY, &mode(""));
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    etcd.delete(&slice_key("web"));
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    etcd.pass(&mut follower, &mut now, Duration::from_secs(3_600));
    local.take(&mut follower);
    assert_eq!(services(&local), set([(Slice, "web")]));
    etcd.put(SERVICE, &service(80));
    etcd.put(&canary(Service), "");
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!(services(&local), set([(Service, "web")]));
    assert!(follower.status().is_synced());
}

/// Watches are not in one order: the removal may arrive before the config that explains it.
#[test]
fn a_removal_that_arrives_before_the_new_mode_takes_nothing_away() {
    for first in 0..8 {
        let mut etcd = alpha();
        put_canaries(&mut etcd);
        let (mut follower, mut local, mut now) = settled(&mut etcd);
        etcd.put(CONFIG_KEY, &mode(ONLY));
        etcd.delete(SERVICE);
        etcd.answer(&mut follower, now, first);
        while etcd.answer(&mut follower, now, 0) {
            now += Duration::from_millis(1);
        }
        etcd.pass(&mut follower, &mut now, Duration::from_secs(3_600));
        local.take(&mut follower);
        assert_eq!(services(&local), set([(Service, "web")]), "{first}");
        assert_eq!(follower.status().held, 0);
    }
}

/// A follower of the cluster before this one, in another form, filled the same tables.
#[test]
fn one_that_begins_says_what_there_is_not() {
    for (role, word, expected) in [
        (Role::Remote, "", vec![Slice]),
        (Role::Remote, BOTH, vec![Service]),
        (Role::Local, BOTH, vec![LocalEndpointSlice, LocalService]),
    ] {
        let mut etcd = alpha();
        etcd.put(CONFIG_KEY, &mode(word));
        put_canaries(&mut etcd);
        etcd.put(&canary(Slice), "");
        let (mut follower, mut local, mut now) = settled_as(role, &mut etcd);
        assert_eq!(local.without, expected, "{word}");
        // The reader of its events may have missed some while it was on hold.
        follower.command(now, PeerCommand::Hold(Refusal::NoId));
        settle(&mut etcd, &mut follower, &mut local, &mut now);
        follower.command(now, PeerCommand::Release);
        settle(&mut etcd, &mut follower, &mut local, &mut now);
        assert_eq!(local.without, expected.repeat(2), "{word}");
    }
}

#[test]
fn of_the_local_cluster_the_local_services_are_followed_in_place_of_those_for_all() {
    let mut etcd = alpha();
    etcd.put(CONFIG_KEY, &mode(BOTH));
    put_canaries(&mut etcd);
    put_local(&mut etcd);
    put_local_services(&mut etcd, &["web", "db"]);
    let (mut follower, mut local, mut now) = settled_as(Role::Local, &mut etcd);
    assert_eq!(services(&local), set([(Service, "web")]), "as of a Cilium");

    etcd.put(LOCAL_CANARY, "");
    // Every step of the way: nothing is missing.
    while etcd.answer(&mut follower, now, 0) {
        now += Duration::from_millis(1);
        local.take(&mut follower);
        let known = services(&local);
        let whole = set([(LocalService, "web"), (LocalEndpointSlice, "web")]);
        assert!(known.contains(&(Service, "web".into())) || known.is_superset(&whole));
    }
    let all = [
        (LocalService, "web"),
        (LocalEndpointSlice, "web"),
        (LocalService, "db"),
        (LocalEndpointSlice, "db"),
    ];
    assert_eq!(services(&local), set(all));
    assert!(follower.status().is_synced());
    etcd.delete("clustermesh/local/v1/services/shop/db");
    etcd.delete("clustermesh/local/v1/endpointslices/shop/db-1");
    etcd.delete(SERVICE);
    etcd.pass(&mut follower, &mut now, Duration::from_secs(1));
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!(services(&local), set([(LocalService, "web"), (LocalEndpointSlice, "web")]));
}

/// Its apiserver names itself, so the local services are waited for, whatever else is there already.
#[test]
fn an_etcd_of_ours_is_not_taken_for_one_of_a_cilium_while_it_is_filled() {
    let ours = ours(BOTH);
    let mut etcd = alpha();
    etcd.put(CONFIG_KEY, &ours);
    put_canaries(&mut etcd);
    put_local_services(&mut etcd, &["web"]);
    let (mut follower, mut local, mut now) = settled_as(Role::Local, &mut etcd);
    let whole = set([(LocalService, "web"), (LocalEndpointSlice, "web")]);
    assert_eq!(services(&local), whole);
    assert!(!follower.status().is_synced());
    etcd.put(LOCAL_CANARY, "");
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert!(follower.status().is_synced());

    // One that has reported them once is waited for even if it does not.
    for config in [ours, config(7, "")] {
        etcd.cut(&mut follower, now);
        etcd.restart(etcd.cluster_id + 1);
        etcd.put(CONFIG_KEY, &config);
        etcd.put(SERVICE, &service(80).replace("web", "other"));
        put_canaries(&mut etcd);
        settle(&mut etcd, &mut follower, &mut local, &mut now);
        etcd.pass(&mut follower, &mut now, Duration::from_secs(3_600));
        local.take(&mut follower);
        assert_eq!(services(&local), whole);
        assert!(!follower.status().is_synced());
    }
    put_local_services(&mut etcd, &["db"]);
    etcd.put(LOCAL_CANARY, "");
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!(services(&local), set([(LocalService, "db"), (LocalEndpointSlice, "db")]));
}

/// An apiserver of ours is replaced by one that exports all services to its nodes: its predecessor's canary does not
/// cover these.
#[test]
fn an_apiserver_that_begins_to_export_all_services_is_waited_for() {
    let mut etcd = alpha();
    etcd.put(CONFIG_KEY, &ours(""));
    put_canaries(&mut etcd);
    put_local(&mut etcd);
    etcd.put(LOCAL_CANARY, "");
    let (mut follower, mut local, mut now) = settled_as(Role::Local, &mut etcd);
    assert!(follower.status().is_synced());
    assert_eq!(services(&local), set([(Service, "web")]));
    etcd.put(CONFIG_KEY, &ours(BOTH));
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    put_local_services(&mut etcd, &["db"]);
    etcd.cut(&mut follower, now);
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert!(services(&local).contains(&(Service, "web".into())), "not all are there yet");
    assert!(!follower.status().is_synced());
    put_local_services(&mut etcd, &["web"]);
    etcd.put(LOCAL_CANARY, "");
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert!(!services(&local).iter().any(|(kind, _)| *kind == Service));
    assert_eq!(services(&local).len(), 4);
    assert!(follower.status().is_synced());
}

#[test]
fn a_local_cluster_that_exports_slices_only_has_no_frontends() {
    let mut etcd = alpha();
    etcd.put(CONFIG_KEY, &mode(ONLY));
    let (_, local, _) = settled_as(Role::Local, &mut etcd);
    assert_eq!(local.refused, [Refusal::NoFrontends]);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Put(u8),
    Delete(u8),
    /// Another mode; in the order in which it should be reported, or the config first.
    Mode(usize, bool),
    /// What the mode does not have any more goes, once every reader knows.
    Tidy(bool),
    Cut,
    Compact,
    Answer(usize),
    Beat,
    Pass(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..6u8).prop_map(Step::Put),
        3 => (0..6u8).prop_map(Step::Delete),
        3 => (0..3usize, any::<bool>()).prop_map(|(mode, orderly)| Step::Mode(mode, orderly)),
        3 => any::<bool>().prop_map(Step::Tidy),
        1 => Just(Step::Cut),
        1 => Just(Step::Compact),
        12 => any::<usize>().prop_map(Step::Answer),
        1 => Just(Step::Beat),
        2 => (0..20u8).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 1..80)
}

/// A cluster's writer: what it wants there to be, and in which mode.
struct Writer {
    desired: BTreeSet<u8>,
    removed: BTreeSet<u8>,
    mode: &'static str,
    untidy: bool,
}

const MODES: [&str; 3] = ["", BOTH, ONLY];

impl Writer {
    fn has(&self, kind: RecordKind) -> bool {
        if kind == Service { self.mode != ONLY } else { !self.mode.is_empty() }
    }

    fn key(kind: RecordKind, n: u8) -> String {
        match kind {
            Service => format!("cilium/state/services/v1/alpha/shop/s{n}"),
            _ => slice_key(&format!("s{n}")),
        }
    }

    fn put(&self, etcd: &mut FakeEtcd, n: u8) {
        if self.has(Slice) {
            put_slice(etcd, &format!("s{n}"));
        }
        if self.has(Service) {
            etcd.put(&Self::key(Service, n), &service(80).replace("web", &format!("s{n}")));
        }
    }

    fn fill(&self, etcd: &mut FakeEtcd) {
        self.desired.iter().for_each(|n| self.put(etcd, *n));
        put_canaries(etcd);
        if !self.has(Service) {
            etcd.delete(&canary(Service));
        }
        if self.has(Slice) {
            etcd.put(&canary(Slice), "");
        }
    }

    /// Removes the trees that the mode does not have: at once, with the heartbeat, or one by one.
    fn tidy(&mut self, etcd: &mut FakeEtcd, at_once: bool) {
        for kind in [Service, Slice].into_iter().filter(|kind| !self.has(*kind)) {
            let there = |n: &u8| {
                let key = KeyRange::key(&Self::key(kind, *n));
                !etcd.all(&key, etcd.revision).is_empty()
            };
            let keys: Vec<String> = (0..6).filter(there).map(|n| Self::key(kind, n)).collect();
            match at_once {
                true => {
                    let mut changes: Vec<(&str, Option<&str>)> =
                        keys.iter().map(|key| (key.as_str(), None)).collect();
                    changes.push((HEARTBEAT, Some("now")));
                    etcd.change(&changes);
                }
                false => keys.iter().for_each(|key| etcd.delete(key)),
            }
            etcd.delete(&canary(kind));
        }
        self.untidy = false;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    /// Whatever mode a cluster changes to, and whatever fails on the way: no service is missing that it did not remove,
    /// and in the end the copy equals its records, in one form.
    #[test]
    fn modes_change_and_nothing_is_lost(steps in steps()) {
        let mut etcd = FakeEtcd::new(1);
        let mut writer = Writer {
            desired: BTreeSet::from([0, 1]),
            removed: BTreeSet::new(),
            mode: "",
            untidy: false,
        };
        etcd.put(HISTORY, "ours");
        etcd.put(CONFIG_KEY, &mode(writer.mode));
        writer.fill(&mut etcd);
        let (mut follower, mut local, mut now) = settled(&mut etcd);
        let known = |local: &Local| -> BTreeSet<u8> {
            services(local).into_iter().map(|(_, name)| name[1..].parse().unwrap()).collect()
        };
        let mut before = known(&local);
        for step in steps {
            match step {
                Step::Put(n) if n >= 3 || !writer.removed.contains(&n) => {
                    writer.desired.insert(n);
                    writer.put(&mut etcd, n);
                }
                Step::Put(_) => {}
                Step::Delete(n) => {
                    if writer.desired.remove(&n) {
                        writer.removed.insert(n);
                    }
                    for kind in [Service, Slice] {
                        etcd.delete(&Writer::key(kind, n));
                    }
                }
                Step::Mode(to, orderly) => {
                    // A writer does not remove what a reader may still follow: it knows the former mode.
                    settle(&mut etcd, &mut follower, &mut local, &mut now);
                    if writer.untidy {
                        writer.tidy(&mut etcd, true);
                        settle(&mut etcd, &mut follower, &mut local, &mut now);
                    }
                    writer.mode = MODES[to];
                    if orderly {
                        writer.fill(&mut etcd);
                    }
                    etcd.put(CONFIG_KEY, &mode(writer.mode));
                    if !orderly {
                        writer.fill(&mut etcd);
                    }
                    writer.untidy = true;
                }
                Step::Tidy(at_once) => {
                    let accepted = follower.accepted.as_ref().map(|config| config.export_mode.as_str());
                    if accepted == Some(writer.mode) {
                        writer.tidy(&mut etcd, at_once);
                    }
                }
                Step::Cut => etcd.cut(&mut follower, now),
                Step::Compact => etcd.compact(),
                Step::Answer(choice) => {
                    now += Duration::from_millis(7);
                    etcd.answer(&mut follower, now, choice);
                }
                Step::Beat => etcd.put(HEARTBEAT, "now"),
                Step::Pass(seconds) => {
                    now += Duration::from_secs(seconds.into());
                    etcd.take_actions(&mut follower, now);
                }
            }
            local.take(&mut follower);
            let there = known(&local);
            for lost in before.difference(&there) {
                prop_assert!(writer.removed.contains(lost), "s{lost} is gone, and the writer did not remove it");
            }
            before = there;
        }
        settle(&mut etcd, &mut follower, &mut local, &mut now);
        etcd.pass(&mut follower, &mut now, Duration::from_secs(120));
        local.take(&mut follower);
        let kind = if writer.mode.is_empty() { Service } else { Slice };
        let expected: BTreeSet<(RecordKind, String)> =
            writer.desired.iter().map(|n| (kind, format!("s{n}"))).collect();
        prop_assert_eq!(services(&local), expected);
        prop_assert!(follower.status().is_synced(), "{:?}", follower.status());
    }
}
