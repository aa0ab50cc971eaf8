//! In every order of arrivals, cuts, lies and restarts an address has an identity that its cluster gave it, or is unknown
//! of that cluster: against a model ([`model`]) that knows what each cluster reported and the rules of `docs/policy.md`,
//! and shares no code with the core.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod model;
mod stage;

use proptest::prelude::*;

use model::{ADDRESSES, GRANTS, NODES, Reported};
use stage::Stage;

/// What a list of a cluster contains.
#[derive(Clone, Debug)]
struct List {
    addresses: Vec<(usize, Reported)>,
    nodes: Vec<(usize, usize, usize)>,
    identities: Vec<usize>,
    /// It is listed to its end.
    complete: bool,
}

#[derive(Clone, Debug)]
enum Step {
    /// With a grant, or without.
    Follow(usize, Option<usize>),
    Unfollow(usize),
    FilesRead(bool),
    Connect(usize),
    Disconnect(usize),
    List(usize, List),
    /// A list of what it has.
    Relist(usize),
    Claim(usize, usize, Reported),
    Unclaim(usize, usize),
    /// The record is gone, or its writer is.
    Doubt(usize, usize),
    Identity(usize, usize, bool),
    /// A node, its address, and its range of pods.
    Node(usize, usize, usize, usize),
    Unnode(usize, usize),
    OverBudget(usize),
    Lift(usize),
    Wait(u64),
    /// The agent starts again, with a kernel that has nothing, or what was there. All clusters are found as they were, or
    /// whatever comes.
    Restart(bool, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (all, remote) = (0usize..4, 1usize..4);
    let address = 0..ADDRESSES.len();
    let reported = prop_oneof![
        4 => (0usize..2).prop_map(Reported::Pod),
        1 => Just(Reported::Host),
        1 => Just(Reported::Unknown),
    ];
    let node = || (0usize..NODES.len(), 0usize..2, 0usize..2);
    let list = (
        prop::collection::vec((address.clone(), reported.clone()), 0..6),
        prop::collection::vec(node(), 0..3),
        prop::collection::vec(0usize..2, 0..3),
        prop::bool::weighted(0.8),
    );
    let list = list.prop_map(|(addresses, nodes, identities, complete)| List {
        addresses,
        nodes,
        identities,
        complete,
    });
    let grant = prop::option::weighted(0.4, 0..GRANTS);
    let step = prop_oneof![
        5 => (remote.clone(), grant).prop_map(|(c, g)| Step::Follow(c, g)),
        1 => remote.clone().prop_map(Step::Unfollow),
        2 => prop::bool::weighted(0.7).prop_map(Step::FilesRead),
        6 => all.clone().prop_map(Step::Connect),
        3 => all.clone().prop_map(Step::Disconnect),
        6 => (all.clone(), list).prop_map(|(c, l)| Step::List(c, l)),
        3 => all.clone().prop_map(Step::Relist),
        8 => (all.clone(), address.clone(), reported).prop_map(|(c, a, r)| Step::Claim(c, a, r)),
        3 => (all.clone(), address.clone()).prop_map(|(c, a)| Step::Unclaim(c, a)),
        2 => (all.clone(), address).prop_map(|(c, a)| Step::Doubt(c, a)),
        3 => (all.clone(), 0usize..2, any::<bool>()).prop_map(|(c, i, has)| Step::Identity(c, i, has)),
        3 => (all.clone(), node()).prop_map(|(c, (n, ip, range))| Step::Node(c, n, ip, range)),
        1 => (all, 0usize..NODES.len()).prop_map(|(c, n)| Step::Unnode(c, n)),
        1 => remote.clone().prop_map(Step::OverBudget),
        1 => remote.prop_map(Step::Lift),
        2 => prop_oneof![Just(1u64), Just(400), Just(899), Just(901)].prop_map(Step::Wait),
        3 => (any::<bool>(), any::<bool>()).prop_map(|(bare, all)| Step::Restart(bare, all)),
    ];
    prop::collection::vec(step, 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_024))]

    #[test]
    fn an_address_has_the_identity_that_its_cluster_gave_it_or_is_unknown_of_it(steps in steps()) {
        let mut stage = Stage::new();
        // Where nothing is reported there is nothing to find.
        let start = [Step::Follow(1, None), Step::Follow(2, None), Step::FilesRead(true)];
        let start = start.into_iter().chain((0..3).map(Step::Connect));
        for step in start.chain(steps) {
            stage.step(step.clone());
            stage.check().map_err(|error| TestCaseError::fail(format!("after {step:?}: {error}")))?;
        }
    }
}
