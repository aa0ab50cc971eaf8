//! Who has an address. (Every order: `agent/core/tests/addresses`.)

use mesh_model::KnownAddress;

use super::{orders::address, *};

const X: &str = "10.9.0.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Two peers without grants.
fn strangers() -> Merge {
    let mut merge = merge();
    for peer in ["b", "c"] {
        merge.set_peer(&name(peer), None);
    }
    merge.started();
    for cluster in ["a", "b", "c"] {
        for kind in [RecordKind::Identity, RecordKind::Address, RecordKind::Node] {
            merge.apply(&name(cluster), RecordEvent::Begin(kind)).unwrap();
            merge.apply(&name(cluster), RecordEvent::Confirmed(kind)).unwrap();
        }
    }
    merge.take_deltas();
    merge
}

fn claim(merge: &mut Merge, cluster: &str, identity: u32) {
    merge.apply(&name(cluster), address(&format!("{X}/32"), identity)).unwrap();
}

fn unclaim(merge: &mut Merge, cluster: &str) {
    let key = RecordKey::Address(format!("{X}/32").parse().unwrap());
    merge.apply(&name(cluster), RecordEvent::Remove(key)).unwrap();
}

/// The changes of the table in short.
fn changes(merge: &mut Merge) -> Vec<String> {
    let deltas = merge.take_deltas().into_iter();
    let changes = deltas.filter_map(|delta| {
        Some(match delta {
            Delta::Address(AddressDelta::Added(ip, holder)) => {
                format!("+{ip} {}:{}", holder.cluster, holder.identity)
            }
            Delta::Address(AddressDelta::Changed(ip, holder)) => {
                format!("{ip} {}:{}", holder.cluster, holder.identity)
            }
            Delta::Address(AddressDelta::Removed(ip)) => format!("-{ip}"),
            Delta::Range(RangeDelta::Set { range, cluster }) => format!("{range} {cluster}"),
            Delta::Range(RangeDelta::Removed { range }) => format!("-{range}"),
            _ => return None,
        })
    });
    changes.collect()
}

#[test]
fn the_first_claim_counts_and_the_second_is_known() {
    let mut merge = strangers();
    claim(&mut merge, "c", 196_700);
    claim(&mut merge, "b", 131_100);
    assert_eq!(changes(&mut merge), ["+10.9.0.1 3:196700"]);
    assert_eq!((merge.contested(), merge.contested_addresses().next()), (1, Some(ip(X))));
    let claims = merge.claims(ip(X));
    let claims: Vec<_> =
        claims.iter().map(|c| (c.cluster.as_str(), c.identity.get(), c.held)).collect();
    assert_eq!(claims, [("c", 196_700, false), ("b", 131_100, false)]);
    claim(&mut merge, "b", 131_101);
    assert_eq!(changes(&mut merge), Vec::<String>::new());
    unclaim(&mut merge, "c");
    assert_eq!(changes(&mut merge), ["10.9.0.1 2:131101"]);
    claim(&mut merge, "c", 196_700);
    claim(&mut merge, "b", 131_100);
    assert_eq!(changes(&mut merge), ["10.9.0.1 2:131100"], "it is second now");
    merge.remove_peer(&name("b"));
    assert_eq!(changes(&mut merge), ["10.9.0.1 3:196700"]);
    merge.remove_peer(&name("c"));
    assert_eq!((changes(&mut merge), merge.contested()), (vec![format!("-{X}")], 0));
}

#[test]
fn what_is_ours_counts_before_what_is_anyone_elses() {
    let mut merge = strangers();
    claim(&mut merge, "c", 196_700);
    claim(&mut merge, "a", 65_800);
    unclaim(&mut merge, "a");
    // A range of one of our nodes, which is in no setting.
    merge.apply(&name("a"), node("a", "n1", "10.9.0.0/24")).unwrap();
    assert_eq!(merge.identity_at(ip(X)), Some((&name("a"), Identity::UNKNOWN)));
    assert_eq!(
        changes(&mut merge),
        [
            "+10.9.0.1 3:196700",
            "10.9.0.1 1:65800",
            "10.9.0.1 3:196700",
            "10.9.0.0/24 a",
            "10.9.0.1 1:0",
            "+172.31.1.1 1:6"
        ]
    );
    let gone = RecordEvent::Remove(RecordKey::Node("n1".into()));
    merge.apply(&name("a"), gone).unwrap();
    assert_eq!(changes(&mut merge), ["-10.9.0.0/24", "10.9.0.1 3:196700", "-172.31.1.1"]);
    assert_eq!(merge.identity_at(ip("10.1.7.7")), Some((&name("a"), Identity::UNKNOWN)));
    assert_eq!(merge.identity_at(ip("192.0.2.1")), None);
}

/// A peer that is silent keeps its addresses, but not against others.
#[test]
fn a_held_claim_counts_until_another_cluster_has_one() {
    let mut merge = strangers();
    claim(&mut merge, "b", 131_100);
    claim(&mut merge, "c", 196_700);
    changes(&mut merge);
    merge.set_silent(&name("b"), true);
    assert_eq!(changes(&mut merge), ["10.9.0.1 2:0"]);
    unclaim(&mut merge, "c");
    assert_eq!(changes(&mut merge), ["10.9.0.1 2:131100"]);
    claim(&mut merge, "c", 196_700);
    merge.set_silent(&name("b"), false);
    assert_eq!(changes(&mut merge), ["10.9.0.1 2:0", "10.9.0.1 2:131100"]);
    // Removed as an expired lease removes it, and put again.
    let key = RecordKey::Address(format!("{X}/32").parse().unwrap());
    merge.apply(&name("b"), RecordEvent::Doubt(key)).unwrap();
    claim(&mut merge, "b", 131_100);
    assert_eq!(changes(&mut merge), ["10.9.0.1 2:0", "10.9.0.1 2:131100"]);
    // Not listed yet, and listed.
    merge.apply(&name("b"), RecordEvent::Begin(RecordKind::Address)).unwrap();
    claim(&mut merge, "b", 131_100);
    merge.apply(&name("b"), RecordEvent::Confirmed(RecordKind::Address)).unwrap();
    assert_eq!(changes(&mut merge), ["10.9.0.1 2:0", "10.9.0.1 2:131100"]);
    // Away for too long: the other one has it, and nobody if that is away too.
    merge.set_silent(&name("b"), true);
    merge.set_stale(&name("b"), true);
    merge.set_stale(&name("c"), true);
    assert_eq!(changes(&mut merge), ["10.9.0.1 2:0", "10.9.0.1 3:196700", "10.9.0.1 2:0"]);
    merge.set_silent(&name("b"), false);
    merge.set_stale(&name("b"), false);
    assert_eq!(changes(&mut merge), ["10.9.0.1 2:131100"]);
}

#[test]
fn who_was_first_is_first_in_the_next_run_and_else_the_lowest_id() {
    let mut before = strangers();
    claim(&mut before, "c", 196_700);
    claim(&mut before, "b", 131_100);
    let kept = ["b", "c"].map(|peer| before.known_identities(&name(peer)).unwrap());
    assert_eq!((kept[0].second.as_slice(), kept[1].second.as_slice()), (&[ip(X)][..], &[][..]));
    for (restored, first) in [(true, 3), (false, 2)] {
        for order in [["b", "c"], ["c", "b"]] {
            let mut merge = merge();
            for peer in order {
                merge.remove_peer(&name(peer));
                merge.set_peer(&name(peer), None);
                let kept = if peer == "b" { &kept[0] } else { &kept[1] };
                if restored {
                    let id = id(if peer == "b" { 2 } else { 3 });
                    merge.remember(&name(peer), id, Vec::new(), kept.clone()).unwrap();
                    assert!(merge.has_restored_addresses(&name(peer)));
                }
            }
            merge.started();
            for peer in order {
                merge.set_id(&name(peer), id(if peer == "b" { 2 } else { 3 })).unwrap();
                merge.apply(&name(peer), RecordEvent::Begin(RecordKind::Address)).unwrap();
                claim(&mut merge, peer, if peer == "b" { 131_100 } else { 196_700 });
                merge.apply(&name(peer), RecordEvent::Confirmed(RecordKind::Address)).unwrap();
                assert!(!merge.has_restored_addresses(&name(peer)));
            }
            assert_eq!(merge.holder(ip(X)).unwrap().cluster.get(), first, "{restored} {order:?}");
        }
    }
}

/// An ID that was known from a previous run goes with what was known, and one that the cluster named does not.
#[test]
fn an_expired_snapshot_takes_no_id_that_was_named_since() {
    for named in [true, false] {
        let mut merge = merge();
        merge.remove_peer(&name("b"));
        merge.set_peer(&name("b"), None);
        let net = format!("{X}/32").parse().unwrap();
        let known = KnownAddress { net, identity: Identity::new(131_100), host: None };
        let known = KnownIdentities { addresses: vec![known], ..KnownIdentities::default() };
        merge.remember(&name("b"), id(2), Vec::new(), known).unwrap();
        if named {
            merge.set_id(&name("b"), id(2)).unwrap();
        }
        changes(&mut merge);
        assert_eq!(merge.expire(&name("b")), Expired::Something);
        assert_eq!(changes(&mut merge), [format!("-{X}")]);
        assert_eq!(merge.id_of(&name("b")).is_some(), named);
    }
}

/// A range is there before its addresses, and until they are gone.
#[test]
fn a_narrowed_grant_takes_back_addresses_and_then_ranges() {
    let mut merge = merge();
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    assert_eq!(changes(&mut merge), ["10.1.0.0/16 a", "10.2.0.0/16 b", "10.3.0.0/16 c"]);
    for (ip, identity) in [("10.2.0.1/32", 131_100), ("10.2.1.1/32", 131_100), ("172.31.2.1/32", 1)]
    {
        merge.apply(&name("b"), address(ip, identity)).unwrap();
    }
    assert_eq!(
        changes(&mut merge),
        ["+10.2.0.1 2:131100", "+10.2.1.1 2:131100", "+172.31.2.1 2:6"]
    );
    let claims = |pods: &str, nodes: &str| Claims {
        id: None,
        pod_cidrs: vec![net(pods)],
        node_cidrs: vec![net(nodes)],
        external_backends: false,
    };
    merge.set_peer(&name("b"), Some(claims("10.2.0.0/24", "172.31.2.0/24")));
    assert_eq!(changes(&mut merge), ["10.2.0.0/24 b", "-10.2.1.1", "-10.2.0.0/16"]);
    // A host is one where the grant has nodes.
    merge.set_peer(&name("b"), Some(claims("172.31.2.0/24", "10.2.0.0/24")));
    assert_eq!(changes(&mut merge), ["172.31.2.0/24 b", "172.31.2.1 2:0", "-10.2.0.0/24"]);
    merge.remove_peer(&name("b"));
    let mut gone = changes(&mut merge);
    assert_eq!(gone.pop().unwrap(), "-172.31.2.0/24");
    gone.sort();
    assert_eq!(gone, ["-10.2.0.1", "-172.31.2.1"]);
}

#[test]
fn an_identity_counts_from_when_its_labels_are_known() {
    let mut merge = strangers();
    claim(&mut merge, "b", 131_100);
    assert_eq!(merge.identity_at(ip(X)), Some((&name("b"), Identity::UNKNOWN)));
    let identity = Identity::new(131_100);
    let labels = |app: &str| {
        RecordEvent::Upsert(Record::Identity(identity, Labels::parse(&format!("k8s:app={app};"))))
    };
    let moved = |merge: &mut Merge| {
        let deltas = merge.take_deltas();
        deltas.contains(&Delta::Identity { id: id(2), identity })
    };
    moved(&mut merge);
    for (event, expected) in [
        (labels("web"), true),
        (labels("web"), false),
        (labels("db"), true),
        (RecordEvent::Remove(RecordKey::Identity(identity)), true),
    ] {
        merge.apply(&name("b"), event).unwrap();
        assert_eq!(moved(&mut merge), expected);
        let known = merge.labels_of(&name("b"), identity).map_or(Identity::UNKNOWN, |_| identity);
        assert_eq!(merge.identity_at(ip(X)), Some((&name("b"), known)));
    }
}

/// What is the node's is a node, whatever an address record says of it; a prefix is no address.
#[test]
fn nodes_and_prefixes() {
    let mut merge = strangers();
    merge.apply(&name("b"), address("172.31.2.1/32", 131_100)).unwrap();
    merge.apply(&name("b"), node("b", "n1", "10.9.0.0/24")).unwrap();
    merge.apply(&name("b"), address("10.9.0.0/25", 131_100)).unwrap();
    assert_eq!(changes(&mut merge), ["+172.31.2.1 2:131100", "10.9.0.0/24 b", "172.31.2.1 2:6"]);
    assert_eq!(merge.identity_at(ip(X)), Some((&name("b"), Identity::UNKNOWN)));
    merge.apply(&name("b"), RecordEvent::Remove(RecordKey::Node("n1".into()))).unwrap();
    assert_eq!(changes(&mut merge), ["-10.9.0.0/24", "172.31.2.1 2:131100"]);
    // Of our own the reserved identities that an address can have are believed.
    for (number, expected) in [(1, 6), (6, 6), (4, 4), (2, 0), (0, 0), (99, 0)] {
        claim(&mut merge, "a", number);
        assert_eq!(merge.holder(ip(X)).unwrap().identity.get(), expected, "{number}");
    }
}

#[test]
fn pods_outside_their_clusters_ranges_are_named() {
    let mut merge = strangers();
    let strays = |merge: &Merge| -> Vec<(String, usize, Vec<String>)> {
        let named = |ips: Vec<IpAddr>| ips.iter().map(ToString::to_string).collect();
        merge.strays().map(|(of, count, ips)| (of.to_string(), count, named(ips))).collect()
    };
    let stray = |of: &str, count, ips: &[&str]| {
        (of.to_owned(), count, ips.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    for last in 1..=6 {
        merge.apply(&name("b"), address(&format!("10.9.0.{last}/32"), 131_100)).unwrap();
    }
    merge.apply(&name("b"), address("10.7.0.1/32", 131_100)).unwrap();
    merge.apply(&name("a"), address("10.1.0.1/32", 65_800)).unwrap();
    let first = ["10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.0.4"];
    assert_eq!(strays(&merge), [stray("b", 7, &first)]);
    // Its node's range comes after its addresses, and then only one is left, which was not among those named.
    merge.apply(&name("b"), node("b", "n1", "10.9.0.0/24")).unwrap();
    merge.apply(&name("b"), node("b", "n2", "10.9.0.0/24")).unwrap();
    assert_eq!(strays(&merge), [stray("b", 1, &[])]);
    merge.apply(&name("b"), RecordEvent::Confirmed(RecordKind::Node)).unwrap();
    assert_eq!(strays(&merge), [stray("b", 1, &["10.7.0.1"])]);
    for (node, count) in [("n1", 1), ("n2", 7)] {
        merge.apply(&name("b"), RecordEvent::Remove(RecordKey::Node(node.into()))).unwrap();
        assert_eq!(strays(&merge)[0].1, count);
    }
    // With a grant they are refused instead.
    let pod_cidrs = vec!["10.9.0.0/16".parse().unwrap()];
    merge.set_peer(&name("b"), Some(Claims { pod_cidrs, ..Claims::default() }));
    assert_eq!(strays(&merge), []);
    merge.set_peer(&name("b"), None);
    assert_eq!(strays(&merge)[0].1, 6);
}
