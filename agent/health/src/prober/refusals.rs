//! Nodes whose agent is away.

use super::{tests::*, *};

/// `b/n1` has no agent then.
fn away(from: u64, until: u64) -> impl Fn(&str, &str, bool, Duration) -> bool {
    move |cluster, node, _, at| {
        (cluster, node) == ("b", "n1") && (millis(from)..millis(until)).contains(&at)
    }
}

fn others_there(_: &str, _: &str, _: bool, _: Duration) -> bool {
    true
}

/// However long, and however often the kernel refuses: no verdict, so nothing is written; nor is a later death damped.
#[test]
fn an_agent_that_is_away_for_minutes_costs_nothing() {
    let dies = |cluster: &str, node: &str, at: Duration| {
        (cluster, node) == ("b", "n1") && at >= millis(400_000)
    };
    let mut world = World::new(move |cluster, node, _, at| !dies(cluster, node, at))
        .refusing(away(5_000, 300_000))
        .with(&[("a", 1), ("b", 2)]);
    assert_eq!(world.run(millis(5_000)), Vec::<String>::new());
    assert_eq!(world.health("b").without_agent, 0);
    assert_eq!(world.run(millis(10_000)), Vec::<String>::new());
    let report = world.prober.report();
    let health = world.health("b");
    assert_eq!((health.answering, health.without_agent, health.all()), (2, 1, 2));
    assert_eq!(report.detection_without_agent, millis(4_700), "three probes and an answer");
    assert_eq!(report.detection, millis(800), "of the others, as before");
    assert_eq!(world.run(millis(299_990)), Vec::<String>::new());
    // One each 1.5 s, from the first one on.
    let refused = world.prober.report().counts.refused;
    assert!((195..=198).contains(&refused), "{refused}");
    let counts = world.prober.report().counts;
    assert_eq!(counts.sent - counts.answered - counts.refused, 0, "none is lost");
    assert_eq!(world.run(millis(303_000)), Vec::<String>::new());
    assert_eq!(world.health("b").without_agent, 0, "its first answer brings it back");
    let of = |from: u64| world.sent.iter().filter(move |at| **at >= millis(from)).count();
    assert!(of(302_000) >= 14, "three nodes five times a second: {}", of(302_000));
    assert_eq!(world.run(millis(400_000)), Vec::<String>::new());
    assert_eq!(world.run(millis(401_000)), ["b/n1 dead"]);
    assert_eq!((world.health("b").damped, world.prober.report().counts.returns), (0, 0));
}

/// From each moment of an interval.
#[test]
fn a_node_that_is_cut_while_its_agent_is_away_is_found() {
    for from in (0..15).map(|n| 20_000 + n * 100) {
        let cut = move |at: Duration| (from..60_000).contains(&at.as_millis());
        let mut world =
            World::new(move |cluster, node, _, at| (cluster, node) != ("b", "n1") || !cut(at))
                .refusing(away(5_000, 300_000))
                .with(&[("a", 1), ("b", 2)]);
        assert_eq!(world.run(millis(60_000)), ["b/n1 dead"]);
        let noticed = world.when("b/n1 dead") - Duration::from_millis(from.try_into().unwrap());
        let detection = world.prober.report().detection_without_agent;
        assert!((millis(3_000)..=detection + STEP).contains(&noticed), "{from}: {noticed:?}");
        assert_eq!(world.run(millis(66_000)), ["b/n1 back"], "three refusals");
        assert_eq!(world.run(millis(120_000)), Vec::<String>::new());
    }
}

/// Nodes of a Cilium cluster, which never had an agent: what answers in no way is never dead.
#[test]
fn a_cluster_without_any_agent_lives_dies_and_is_cut() {
    let cut = |at: Duration| (30_000..60_000).contains(&at.as_millis());
    let dead =
        |node: &str, at: Duration| node == "n1" && (10_000..25_000).contains(&at.as_millis());
    let mut world = World::new(move |cluster, node, _, at| match cluster {
        "b" => node != "n3" && !dead(node, at) && !cut(at),
        _ => true,
    })
    .refusing(|cluster, node, _, _| cluster == "b" && node != "etcd")
    .with(&[("a", 1), ("b", 3)]);
    assert_eq!(world.run(millis(10_000)), ["b/n3 unverified"]);
    let health = world.health("b");
    assert_eq!((health.answering, health.without_agent, health.never_answered), (2, 2, 1));
    assert_eq!(world.run(millis(29_000)), ["b/n1 dead", "b/n1 back"]);
    let words = world.run(millis(60_000));
    assert!(words.contains(&"b cut".into()), "{words:?}");
    assert!(!words.iter().any(|word| word.starts_with("b/n3")), "{words:?}");
    assert!(world.when("b cut") <= millis(30_000 + 4_700 + 1_500 + 400), "{:?}", world.changes);
    let words = world.run(millis(90_000));
    assert!(words.contains(&"b healed".into()), "{words:?}");
    assert_eq!((world.health("b").answering, world.health("b").never_answered), (2, 1));
}

/// The answer of a node whose agent is away is evidence for others' deaths, and it is not asked so often for it that it stops to
/// answer.
#[test]
fn a_node_that_refuses_is_evidence_and_is_spared() {
    let flaps = |at: Duration| at > millis(10_000) && (at.as_millis() / 700).is_multiple_of(2);
    let mut world = World::new(move |cluster, _, _, at| cluster != "c" || !flaps(at))
        .refusing(|cluster, _, _, _| cluster == "b")
        .with(&[("b", 1), ("c", 1)]);
    let words = world.run(millis(120_000));
    assert!(words.iter().any(|word| word == "c cut"), "{words:?}");
    assert!(!words.iter().any(|word| word.starts_with('b')), "{words:?}");
    // And of those who are like it.
    let mut world = World::new(|cluster, _, _, at| cluster != "c" || at < millis(10_000))
        .refusing(|_, node, _, _| node != "etcd")
        .with(&[("b", 1), ("c", 1)]);
    assert_eq!(world.run(millis(60_000)), ["c cut"]);
    assert!(world.when("c cut") <= millis(10_000 + 4_700 + 1_000), "{:?}", world.changes);
}

/// An agent that dies as soon as it has started.
#[test]
fn an_agent_that_comes_and_goes_costs_nothing() {
    for period in [130, 300, 700, 1_000, 1_500, 1_700, 2_300, 5_000, 20_000_u128] {
        let mut world = World::new(others_there)
            .refusing(move |cluster, node, _, at| {
                (cluster, node) == ("b", "n1") && (at.as_millis() / period).is_multiple_of(2)
            })
            .with(&[("a", 1), ("b", 2)]);
        assert_eq!(world.run(millis(300_000)), Vec::<String>::new(), "{period}");
        let counts = world.prober.report().counts;
        assert_eq!(counts.sent, counts.answered + counts.refused, "{period}: none is lost");
        assert!(counts.refused > 7 && counts.answered > 3_000, "{period}: {counts:?}");
    }
}

/// The local uplink is cut while some agents are away: no node died.
#[test]
fn the_local_uplink_is_cut_while_agents_are_away() {
    for length in (200..12_000).step_by(370) {
        let cut = move |at: Duration| (20_000..20_000 + length).contains(&at.as_millis());
        let mut world = World::new(move |_, _, _, at| !cut(at))
            .refusing(|cluster, node, _, _| cluster == "b" && node != "etcd")
            .with(&[("a", 1), ("b", 2), ("c", 1)]);
        assert_eq!(world.run(millis(60_000)), Vec::<String>::new(), "{length}");
    }
}

#[test]
fn a_refusal_must_have_the_nonce_and_come_from_where_it_was_asked() {
    let now = Instant::now();
    let mut prober = Prober::new(name("a"), now);
    prober.set_targets(&name("b"), &[target(2, 1, true)], now);
    let [Question { probe, .. }] = prober.due(now, || 7).try_into().unwrap();
    let without = |prober: &Prober| prober.report().clusters[&name("b")].without_agent;
    prober.replied(Probe { nonce: 8, ..probe }, Reply::Refused, now);
    prober.replied(Probe { address: [172, 31, 2, 2].into(), ..probe }, Reply::Refused, now);
    assert_eq!(without(&prober), 0);
    prober.replied(probe, Reply::Refused, now);
    prober.replied(probe, Reply::Refused, now);
    prober.replied(probe, Reply::Answered(Answerer::PreviousAgent), now);
    assert_eq!((without(&prober), prober.report().counts.refused), (1, 1), "counted once");
    assert_eq!(prober.report().counts.answered, 0);
}

/// A Cilium cluster of many nodes leaves room for the others.
#[test]
fn so_many_without_an_agent_and_no_more() {
    let mut world =
        World::new(others_there).refusing(|cluster, _, _, _| cluster == "b").with(&[("a", 2)]);
    let many: Vec<Target> = (1..=250).map(|n| target(2, n, true)).collect();
    world.set("b", &many);
    assert_eq!(world.run(millis(30_000)), Vec::<String>::new());
    let sent = world.sent.iter().filter(|at| **at >= millis(20_000)).count();
    assert!((1_000..=1_200).contains(&sent), "100 a second, and 5 for each of the others: {sent}");
    let report = world.prober.report();
    assert_eq!((report.in_use, report.detection), (252, millis(800)));
    assert_eq!(report.detection_without_agent, millis(2_500 + 3_000 + 200));
}
