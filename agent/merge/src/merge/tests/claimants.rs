//! Whose an address is: against a model that knows who reports it, and in which order they began to.

use proptest::prelude::*;

use super::*;

const CLUSTERS: [&str; 5] = ["a", "b", "c", "d", "e"];
/// Ours, in b's and c's grants, in b's only, and in nobody's.
const ADDRESSES: [&str; 5] = ["10.1.0.5", "10.2.200.5", "10.2.0.5", "10.9.0.5", "10.9.0.6"];

#[derive(Clone, Debug)]
enum Step {
    Report(usize, usize, u32),
    Withdraw(usize, usize),
    Relist(usize, Vec<(usize, u32)>),
    /// A grant: none, the usual one, or one that overlaps with another's.
    Grant(usize, usize),
    Leave(usize),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (c, a, n) =
        (0..CLUSTERS.len(), 0..ADDRESSES.len(), prop_oneof![Just(0u32), Just(1), 1_000..1_003u32]);
    let step = prop_oneof![
        10 => (c.clone(), a.clone(), n.clone()).prop_map(|(c, a, n)| Step::Report(c, a, n)),
        4 => (c.clone(), a.clone()).prop_map(|(c, a)| Step::Withdraw(c, a)),
        2 => (c.clone(), prop::collection::vec((a, n), 0..4)).prop_map(|(c, all)| Step::Relist(c, all)),
        3 => (1..CLUSTERS.len(), 0usize..3).prop_map(|(c, grant)| Step::Grant(c, grant)),
        1 => (1..CLUSTERS.len()).prop_map(Step::Leave),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..50)
}

fn address(index: usize) -> IpAddr {
    ADDRESSES[index].parse().unwrap()
}

fn record(index: usize, identity: u32) -> Record {
    Record::Address(Box::new(EndpointAddress {
        net: address(index).into(),
        host: None,
        identity: Identity::new(identity),
        encryption_key: 0,
        metadata: String::new(),
        namespace: String::new(),
        pod: String::new(),
        service_account: String::new(),
        named_ports: Vec::new(),
    }))
}

fn claims(cluster: usize, grant: usize) -> Option<Claims> {
    let range = match (grant, CLUSTERS[cluster]) {
        (0, _) => return None,
        (1, "b") | (2, "c") => "10.2.0.0/16",
        (1, _) => return None,
        _ => "10.2.128.0/17",
    };
    Some(Claims {
        pod_cidrs: vec![range.parse().unwrap()],
        node_cidrs: vec!["10.2.200.0/24".parse().unwrap()],
        ..Claims::default()
    })
}

fn empty() -> Merge {
    let mut merge = Merge::new(name("a"), LocalRanges::default());
    for (number, cluster) in (1..).zip(CLUSTERS) {
        if cluster != "a" {
            merge.set_peer(&name(cluster), None);
        }
        merge.set_id(&name(cluster), id(number)).unwrap();
    }
    merge
}

/// Who reports each address, in the order in which they began to; the local cluster first.
fn follow(merge: &Merge, order: &mut [Vec<usize>]) {
    for (index, order) in order.iter_mut().enumerate() {
        let has = |cluster: &usize| {
            merge.identity_of(&name(CLUSTERS[*cluster]), address(index).into()).is_some()
        };
        order.retain(has);
        for cluster in (0..CLUSTERS.len()).filter(has) {
            if !order.contains(&cluster) {
                if cluster == 0 { order.insert(0, 0) } else { order.push(cluster) }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// In every order an address has an identity that its cluster gave it, or is unknown of it; who has it follows from
    /// who reported it first; and whoever follows the deltas knows it.
    #[test]
    fn an_address_is_of_who_reported_it_first(steps in steps()) {
        let mut merge = empty();
        let mut order = vec![Vec::new(); ADDRESSES.len()];
        let mut grants = [0usize; CLUSTERS.len()];
        let mut begun = [false; CLUSTERS.len()];
        let mut told: BTreeMap<IpAddr, AddressState> = BTreeMap::new();
        let mut said: BTreeMap<(usize, usize), u32> = BTreeMap::new();
        for step in steps {
            let apply = |merge: &mut Merge, cluster: usize, event| {
                merge.apply(&name(CLUSTERS[cluster]), event).is_ok()
            };
            match step {
                Step::Report(cluster, index, identity) => {
                    // What comes before any list is from a snapshot.
                    if !std::mem::replace(&mut begun[cluster], true) {
                        apply(&mut merge, cluster, RecordEvent::Begin(RecordKind::Address));
                    }
                    if apply(&mut merge, cluster, RecordEvent::Upsert(record(index, identity))) {
                        said.insert((cluster, index), identity);
                    }
                }
                Step::Withdraw(cluster, index) => {
                    let key = RecordKey::Address(address(index).into());
                    apply(&mut merge, cluster, RecordEvent::Remove(key));
                }
                Step::Relist(cluster, all) => {
                    begun[cluster] = true;
                    apply(&mut merge, cluster, RecordEvent::Begin(RecordKind::Address));
                    for (index, identity) in all {
                        if apply(&mut merge, cluster, RecordEvent::Upsert(record(index, identity))) {
                            said.insert((cluster, index), identity);
                        }
                        follow(&merge, &mut order);
                    }
                    apply(&mut merge, cluster, RecordEvent::Confirmed(RecordKind::Address));
                }
                Step::Grant(cluster, grant) => {
                    grants[cluster] = grant;
                    merge.set_peer(&name(CLUSTERS[cluster]), claims(cluster, grant));
                }
                Step::Leave(cluster) => {
                    begun[cluster] = false;
                    merge.remove_peer(&name(CLUSTERS[cluster]));
                    follow(&merge, &mut order);
                    merge.set_peer(&name(CLUSTERS[cluster]), claims(cluster, grants[cluster]));
                    let number = u32::try_from(cluster).unwrap() + 1;
                    merge.set_id(&name(CLUSTERS[cluster]), id(number)).unwrap();
                }
                Step::Restart => {
                    let mut next = Merge::new(name("a"), LocalRanges::default());
                    for cluster in (1..CLUSTERS.len()).rev() {
                        next.set_peer(&name(CLUSTERS[cluster]), claims(cluster, grants[cluster]));
                    }
                    // In another order than that of the IDs.
                    for cluster in (0..CLUSTERS.len()).rev() {
                        let has = |index: &usize| {
                            let net = address(*index).into();
                            merge.identity_of(&name(CLUSTERS[cluster]), net).is_some()
                        };
                        let records = (0..ADDRESSES.len()).filter(has);
                        let records = records.map(|index| record(index, said[&(cluster, index)]));
                        let number = u32::try_from(cluster).unwrap() + 1;
                        let records = records.collect();
                        next.remember(&name(CLUSTERS[cluster]), id(number), records).unwrap();
                    }
                    merge = next;
                    begun = [false; CLUSTERS.len()];
                    order = vec![Vec::new(); ADDRESSES.len()];
                }
            }
            follow(&merge, &mut order);
            for delta in merge.take_deltas() {
                if let Delta::Address(net) = delta {
                    told.insert(net.addr(), merge.address(net.addr()));
                }
            }
            for (index, order) in order.iter().enumerate() {
                let claimants = merge.claimants(address(index));
                let found: Vec<&str> = claimants.iter().map(|(cluster, _)| cluster.as_str()).collect();
                let wanted: Vec<&str> = order.iter().map(|cluster| CLUSTERS[*cluster]).collect();
                prop_assert_eq!(&found, &wanted, "{}", ADDRESSES[index]);
                let state = merge.address(address(index));
                match (&state, order.first()) {
                    (AddressState::Known { cluster, identity }, Some(first)) => {
                        prop_assert_eq!(cluster.as_str(), CLUSTERS[*first]);
                        let given = said[&(*first, index)];
                        let is_node = given < 256 && *identity == Identity::REMOTE_NODE;
                        prop_assert!(identity.get() == given || is_node, "{} {}", identity, given);
                    }
                    (AddressState::UnknownOf(cluster), Some(first)) => {
                        prop_assert_eq!(cluster.as_str(), CLUSTERS[*first]);
                    }
                    (AddressState::Outside | AddressState::UnknownOf(_), None) => {}
                    (state, first) => prop_assert!(false, "{:?} {:?}", state, first),
                }
                if let AddressState::Known { .. } = state {
                    prop_assert_eq!(told.get(&address(index)), Some(&state), "{}", ADDRESSES[index]);
                }
                prop_assert_eq!(merge.contested().any(|(one, _)| one == address(index)), order.len() > 1);
            }
        }
    }
}

#[test]
fn an_address_in_a_pod_range_is_never_the_world() {
    let mut merge = merge();
    let at = |merge: &Merge, text: &str| merge.address(text.parse().unwrap());
    assert_eq!(at(&merge, "10.1.9.9"), AddressState::UnknownOf(name("a")));
    assert_eq!(at(&merge, "10.2.9.9"), AddressState::UnknownOf(name("b")));
    assert_eq!(at(&merge, "10.4.9.9"), AddressState::Outside);
    // A peer without a grant says by its nodes where its pods are.
    merge.set_peer(&name("d"), None);
    merge.set_id(&name("d"), id(4)).unwrap();
    merge.apply(&name("d"), node("d", "n1", "10.4.0.0/24")).unwrap();
    assert_eq!(at(&merge, "10.4.0.9"), AddressState::UnknownOf(name("d")));
}
