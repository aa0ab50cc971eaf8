//! Grants and confinement, in every order in which things may arrive.

use super::*;

/// Something that arrives.
#[derive(Clone, Debug)]
enum Arrival {
    /// A peer file is there, or another one.
    Peer(&'static str, Option<Claims>),
    /// A cluster announces its ID.
    Id(&'static str, u32),
    /// A cluster reports something.
    Says(&'static str, RecordEvent),
}

use Arrival::{Id, Peer, Says};

/// What is visible of a cluster: its ID, and each record in words.
type Visible = BTreeMap<String, (u16, BTreeSet<String>)>;

fn claims(number: u32, id: Option<u32>) -> Option<Claims> {
    let net = |text: String| text.parse::<IpNet>().unwrap();
    Some(Claims {
        id: id.map(self::id),
        pod_cidrs: vec![net(format!("10.{number}.0.0/16"))],
        node_cidrs: vec![net(format!("172.31.{number}.0/24"))],
        external_backends: false,
    })
}

pub(super) fn address(ip: &str, identity: u32) -> RecordEvent {
    RecordEvent::Upsert(Record::Address(Box::new(EndpointAddress {
        net: ip.parse().unwrap(),
        host: None,
        identity: Identity::new(identity),
        encryption_key: 0,
        metadata: String::new(),
        namespace: String::new(),
        pod: String::new(),
        service_account: String::new(),
        named_ports: Vec::new(),
    })))
}

/// A service of the hostile cluster with another cluster's pod.
fn stolen(number: u8) -> RecordEvent {
    let RecordEvent::Upsert(Record::Service(mut stolen)) = service("c", "web", None, &[1]) else {
        panic!("a service")
    };
    let ports =
        BTreeMap::from([("http".to_owned(), Port { protocol: Protocol::Tcp, number: 8080 })]);
    stolen.name = ServiceName::new("shop", &format!("stolen-{number}"));
    stolen.backends.insert(IpAddr::from([10, number, 1, 1]), ports);
    RecordEvent::Upsert(Record::Service(stolen))
}

/// All orders of the last `free` of each, with the others before them in their order; each with all others.
fn orders(all: &[(Vec<Arrival>, usize)]) -> Vec<Vec<Arrival>> {
    let mut woven = vec![Vec::new()];
    for (arrivals, free) in all {
        let (first, rest) = arrivals.split_at(arrivals.len() - free);
        let own = permutations(rest).into_iter().map(|rest| [first, &rest].concat());
        let own: Vec<Vec<Arrival>> = own.collect();
        let pairs = woven.iter().flat_map(|one| own.iter().map(move |other| (one, other)));
        woven = pairs.flat_map(|(one, other)| weaves(one, other)).collect();
    }
    woven
}

fn permutations(all: &[Arrival]) -> Vec<Vec<Arrival>> {
    if all.is_empty() {
        return vec![Vec::new()];
    }
    let mut found = Vec::new();
    for at in 0..all.len() {
        let mut rest = all.to_vec();
        let first = rest.remove(at);
        found.extend(
            permutations(&rest).into_iter().map(|rest| [vec![first.clone()], rest].concat()),
        );
    }
    found
}

fn weaves(one: &[Arrival], other: &[Arrival]) -> Vec<Vec<Arrival>> {
    let (Some(first), Some(second)) = (one.first(), other.first()) else {
        return vec![[one, other].concat()];
    };
    let with = |first: &Arrival, rest: Vec<Vec<Arrival>>| {
        let first = first.clone();
        rest.into_iter().map(move |rest| [vec![first.clone()], rest].concat())
    };
    let beginning = with(first, weaves(&one[1..], other));
    beginning.chain(with(second, weaves(one, &other[1..]))).collect()
}

fn visible(merge: &Merge) -> Visible {
    let of = |(name, cluster): (&ClusterName, &Cluster)| {
        let addresses = cluster.addresses.iter();
        let addresses = addresses
            .map(|(net, _)| format!("{net}: {}", merge.identity_of(name, net).unwrap().get()));
        let nodes =
            cluster.nodes.iter().map(|(node, entry, _)| format!("{node}: {:?}", entry.pod_cidrs));
        let services = cluster.services.iter().flat_map(|(service, part)| {
            part.backends().map(move |(place, _)| format!("{}: {}", service.name, place.address))
        });
        let records = addresses.chain(nodes).chain(services).collect();
        (name.to_string(), (cluster.id.get(), records))
    };
    merge.clusters.iter().map(of).collect()
}

/// Plays every order: what is visible in the end is always the same and returned. `c`, the hostile cluster, never shows
/// anything of ours, nor anything that is granted to another at that moment, nor, with a grant of its own, anything
/// beyond that.
fn play(all: &[(Vec<Arrival>, usize)]) -> Visible {
    let mut end: Option<Visible> = None;
    for order in orders(all) {
        let ranges = LocalRanges {
            pod_cidrs: vec!["10.1.0.0/16".parse().unwrap()],
            ..LocalRanges::default()
        };
        let mut merge = Merge::new(name("a"), ranges);
        merge.set_id(&name("a"), id(1)).unwrap();
        for arrival in &order {
            match arrival.clone() {
                Peer(peer, claims) => drop(merge.set_peer(&name(peer), claims)),
                // An ID that is another's, and a record that no cluster may claim: that is what this is about.
                Id(peer, number) => drop(merge.set_id(&name(peer), id(number))),
                Says(peer, record) => drop(merge.apply(&name(peer), record)),
            }
            let now = visible(&merge);
            let (number, texts) = now.get("c").cloned().unwrap_or_default();
            let forbidden = |text: &String| {
                let granted = |peer: &str| merge.grants.contains_key(&name(peer));
                text.contains("10.1.")
                    || granted("b") && text.contains("10.2.")
                    || granted("c") && !text.contains("10.3.")
            };
            assert_eq!(texts.iter().find(|text| forbidden(text)), None, "{order:#?}");
            let b_has_its_own = merge.grants.get(&name("b")).is_some_and(|b| b.id.is_some());
            assert!(!(b_has_its_own && number == 2), "{order:#?}");
        }
        let found = visible(&merge);
        assert_eq!(end.get_or_insert_with(|| found.clone()), &found, "{order:#?}");
    }
    end.unwrap()
}

fn honest(claims: Option<Claims>) -> (Vec<Arrival>, usize) {
    let says = [
        address("10.2.1.1/32", 131_073),
        node("b", "n1", "10.2.1.0/24"),
        service("b", "web", None, &[1]),
    ];
    let all = [Peer("b", claims), Id("b", 2)].into_iter();
    (all.chain(says.map(|record| Says("b", record))).collect(), 2)
}

/// A hostile cluster: it reports one thing of its own, and two that it may not.
fn liar(claims: Option<Claims>, number: u32) -> (Vec<Arrival>, usize) {
    let says = [service("c", "web", None, &[7]), stolen(2), address("10.2.1.1/32", 196_700)];
    let all = [Peer("c", claims), Id("c", number)].into_iter();
    (all.chain(says.map(|record| Says("c", record))).collect(), 3)
}

fn records<const N: usize>(records: [&str; N]) -> BTreeSet<String> {
    records.map(str::to_owned).into()
}

const OF_B: [&str; 3] = ["10.2.1.1/32: 131073", "n1: [10.2.1.0/24]", "web: 10.2.1.1"];

#[test]
fn a_liar_with_a_grant_says_what_it_covers_in_every_order() {
    let end = play(&[honest(claims(2, Some(2))), liar(claims(3, Some(3)), 3)]);
    assert_eq!(end["b"], (2, records(OF_B)));
    assert_eq!(end["c"], (3, records(["web: 10.3.1.7"])));
}

#[test]
fn a_liar_without_a_grant_says_nothing_of_what_others_are_granted() {
    let end = play(&[honest(claims(2, Some(2))), liar(None, 3)]);
    assert_eq!(end["b"], (2, records(OF_B)));
    assert_eq!(end["c"], (3, records(["web: 10.3.1.7"])));
    // Nor of ours, whatever it is granted.
    let ours = vec![
        Peer("c", None),
        Id("c", 3),
        Peer("c", claims(3, None)),
        Says("c", stolen(1)),
        Says("c", address("10.1.1.1/32", 196_700)),
    ];
    assert_eq!(play(&[(ours, 3)])["c"], (3, records([])));
}

#[test]
fn an_id_is_whose_it_is_granted_to_whichever_cluster_comes_first() {
    for grant in [None, claims(3, None), claims(3, Some(3))] {
        let end = play(&[honest(claims(2, Some(2))), liar(grant, 2)]);
        assert_eq!(end["b"], (2, records(OF_B)), "the honest is in no other's way");
        assert_eq!(end["c"], (0, records([])), "the liar has no ID, and is not accepted");
    }
}

#[test]
fn a_grant_may_come_before_between_and_after() {
    let (mut arrivals, _) = honest(None);
    let (lies, _) = liar(None, 3);
    arrivals.pop();
    // Its file without a grant is there first; the grant comes at any time.
    let number = arrivals.remove(1);
    arrivals.insert(1, Peer("b", claims(2, Some(2))));
    arrivals.insert(1, number);
    let end = play(&[(arrivals, 3), (lies, 2)]);
    let [one, other, _] = OF_B;
    assert_eq!(end["b"], (2, records([one, other])));
    assert_eq!(end["c"], (3, records(["web: 10.3.1.7"])));
    // The effective identity of an address follows from the grant, and not from when it came.
    let node = vec![
        Peer("b", None),
        Id("b", 2),
        Peer("b", claims(2, Some(2))),
        Says("b", address("172.31.2.1/32", 6)),
        Says("b", address("10.2.1.1/32", 6)),
    ];
    assert_eq!(play(&[(node, 3)])["b"].1, records(["172.31.2.1/32: 6", "10.2.1.1/32: 0"]));
}
