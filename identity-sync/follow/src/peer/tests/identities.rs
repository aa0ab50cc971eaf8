//! Nothing is reported that the cluster did not report: whatever fails, an address has an identity that its cluster
//! gave it.

use super::*;

/// What may happen to a cluster with addresses, and to its follower.
#[derive(Clone, Debug)]
enum Step {
    /// An address gets an identity, in a revision with the identity's own key or without.
    Give(u8, u8, bool),
    Take(u8),
    /// Several addresses change hands in one revision.
    Swap(Vec<(u8, u8)>),
    Cut,
    Compact,
    /// Another replica, or the same etcd with a new history.
    Switch(bool),
    Answer(usize),
    Pass(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (address, identity) = (0..5u8, 0..4u8);
    let step = prop_oneof![
        6 => (address.clone(), identity.clone(), any::<bool>())
            .prop_map(|(a, i, with)| Step::Give(a, i, with)),
        2 => address.clone().prop_map(Step::Take),
        2 => proptest::collection::vec((address, identity), 1..5).prop_map(Step::Swap),
        1 => Just(Step::Cut),
        1 => Just(Step::Compact),
        1 => any::<bool>().prop_map(Step::Switch),
        10 => any::<usize>().prop_map(Step::Answer),
        1 => (0..40u8).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 1..80)
}

const FIRST: u32 = 458_752;

fn address_key(n: u8) -> String {
    format!("cilium/state/ip/v1/default/10.7.0.{n}")
}

fn address(n: u8, identity: u8) -> String {
    format!(r#"{{"IP":"10.7.0.{n}","ID":{}}}"#, FIRST + u32::from(identity))
}

fn identity_key(identity: u8) -> String {
    format!("cilium/state/identities/v1/id/{}", FIRST + u32::from(identity))
}

const LABELS: &str = "k8s:io.cilium.k8s.policy.cluster=alpha;";

/// Makes changes in one revision; a key that is there twice has its last value.
fn change(etcd: &mut FakeEtcd, changes: &BTreeMap<String, Option<String>>) {
    let changes: Vec<(&str, Option<&str>)> =
        changes.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
    etcd.change(&changes);
}

/// What the reader has of addresses: which identity each has.
fn known(local: &Local) -> BTreeMap<String, u32> {
    let address = |(key, (record, _)): (&RecordKey, &(Option<Record>, u32))| match (key, record) {
        (RecordKey::Address(net), Some(Record::Address(address))) => {
            Some((net.to_string(), address.identity.get()))
        }
        _ => None,
    };
    local.records.iter().filter_map(address).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn an_address_has_only_an_identity_that_its_cluster_gave_it(
        steps in steps(),
        fragments in any::<bool>(),
    ) {
        let mut etcd = FakeEtcd::new(1);
        etcd.fragments = fragments;
        let mut now_has: BTreeMap<u8, u8> = BTreeMap::new();
        let mut given: BTreeSet<(String, u32)> = BTreeSet::new();
        let (mut id, mut version) = (1, 0);
        let fill = |etcd: &mut FakeEtcd, has: &BTreeMap<u8, u8>, version: &mut u32| {
            etcd.put(HISTORY, "ours");
            etcd.put(CONFIG_KEY, &config(7, ""));
            (0..4).for_each(|identity| etcd.put(&identity_key(identity), LABELS));
            has.iter().for_each(|(n, identity)| etcd.put(&address_key(*n), &address(*n, *identity)));
            put_canaries(etcd);
            *version += 1;
            etcd.put(POSITION, &position(*version));
        };
        fill(&mut etcd, &now_has, &mut version);
        let (mut follower, mut local, mut now) = settled(&mut etcd);
        for step in steps {
            let mut give = |etcd: &mut FakeEtcd, pairs: &[(u8, u8)], with_identity: bool| {
                let mut changes = BTreeMap::new();
                for (n, identity) in pairs {
                    changes.insert(address_key(*n), Some(address(*n, *identity)));
                    if with_identity {
                        changes.insert(identity_key(*identity), Some(LABELS.to_owned()));
                    }
                    now_has.insert(*n, *identity);
                }
                // Of two in one revision only the last was ever given.
                for (n, _) in pairs {
                    given.insert((format!("10.7.0.{n}/32"), FIRST + u32::from(now_has[n])));
                }
                change(etcd, &changes);
                version += 1;
                etcd.put(POSITION, &position(version));
            };
            match step {
                Step::Give(n, identity, with) => give(&mut etcd, &[(n, identity)], with),
                Step::Swap(pairs) => give(&mut etcd, &pairs, false),
                Step::Take(n) => {
                    now_has.remove(&n);
                    etcd.delete(&address_key(n));
                    version += 1;
                    etcd.put(POSITION, &position(version));
                }
                Step::Cut => etcd.cut(&mut follower, now),
                Step::Compact => etcd.compact(),
                Step::Switch(same) => {
                    etcd.cut(&mut follower, now);
                    id += u64::from(!same);
                    etcd.restart(id);
                    etcd.fragments = fragments;
                    // Created at another revision than in any history before.
                    (0..version).for_each(|_| etcd.put("other", ""));
                    fill(&mut etcd, &now_has, &mut version);
                }
                Step::Answer(choice) => {
                    now += Duration::from_millis(7);
                    etcd.answer(&mut follower, now, choice);
                }
                Step::Pass(seconds) => {
                    now += Duration::from_secs(seconds.into());
                    etcd.take_actions(&mut follower, now);
                }
            }
            local.take(&mut follower);
            for pair in known(&local) {
                prop_assert!(given.contains(&pair), "{pair:?} was never reported");
            }
        }
        settle(&mut etcd, &mut follower, &mut local, &mut now);
        etcd.pass(&mut follower, &mut now, Duration::from_secs(120));
        local.take(&mut follower);
        let wanted: BTreeMap<String, u32> = now_has
            .iter()
            .map(|(n, identity)| (format!("10.7.0.{n}/32"), FIRST + u32::from(*identity)))
            .collect();
        prop_assert_eq!(known(&local), wanted);
    }
}
