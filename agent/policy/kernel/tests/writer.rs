//! The tables are as the compiler has them after every change, though only what changed is written.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test"
)]

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use mesh_labels::LabelFilter;
use mesh_layout::policy::{FlowDirection, PacketVerdict};
use mesh_model::{Label, Labels, NamedPort, Port, Protocol};
use mesh_policy::{Class, Compiler, Direction, Options};
use mesh_policy_kernel::{Carried, Copy, KernelError, Meant, Packet, Sizes, Writer};
use mesh_policy_rules::{Action, Policy, parse};
use proptest::prelude::*;
use serde_json::{Value, json};

const NAMES: usize = 4;

fn copy(sizes: Sizes) -> Option<Copy> {
    match Copy::load(sizes) {
        Ok(copy) => Some(copy),
        Err(KernelError::NotPermitted) => {
            println!("skipped: the kernel's programs, which only root may load");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn policy(name: usize, spec: &Value) -> Policy {
    let object = json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": { "namespace": "shop", "name": format!("p{name}") }, "spec": spec,
    });
    parse(&object, &LabelFilter::new([]).unwrap()).unwrap().policy.unwrap()
}

fn app(name: &str) -> Value {
    json!({ "matchLabels": { "app": name } })
}

fn specs() -> Vec<Value> {
    let ports = json!([{ "ports": [{ "port": "80", "protocol": "TCP" }, { "port": "http" }] }]);
    vec![
        json!({ "endpointSelector": app("a"), "ingress": [{ "fromEndpoints": [app("b")] }] }),
        json!({ "endpointSelector": {}, "ingress": [{ "fromEndpoints": [app("b"), app("c")], "toPorts": ports }] }),
        json!({ "endpointSelector": app("a"), "egress": [{ "toEndpoints": [app("c")], "toPorts": ports }] }),
        json!({ "endpointSelector": app("b"), "ingressDeny": [{ "fromEntities": ["cluster"] }], "ingress": [{}] }),
        json!({ "endpointSelector": {}, "egress": [{ "toCIDRSet": [{ "cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"] }] }] }),
        json!({ "endpointSelector": app("c"), "egress": [{ "toCIDR": ["10.1.2.0/24", "0.0.0.0/0"] }] }),
        json!({ "endpointSelector": app("a"), "egressDeny": [{ "toCIDR": ["10.1.0.0/16"] }], "egress": [{ "toEntities": ["world"] }] }),
        json!({ "endpointSelector": app("a"), "ingress": [{ "fromEndpoints": [{ "matchExpressions": [{ "key": "app", "operator": "NotIn", "values": ["c"] }] }] }] }),
    ]
}

fn labels(app: &str) -> Labels {
    [
        ("app", app),
        ("io.kubernetes.pod.namespace", "shop"),
        ("io.cilium.k8s.policy.cluster", "east"),
    ]
    .into_iter()
    .map(|(key, value)| Label::kubernetes(key, value))
    .collect()
}

#[derive(Clone, Debug)]
enum Step {
    Put(usize, usize),
    Remove(usize),
    Class(u32, Option<usize>),
    Pod(usize, Option<usize>),
    Base(usize, bool),
    /// Seconds go by.
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..NAMES, 0..specs().len()).prop_map(|(name, spec)| Step::Put(name, spec)),
        2 => (0..NAMES).prop_map(Step::Remove),
        3 => (0u32..4, prop::option::of(0..3usize)).prop_map(|(number, app)| Step::Class(number, app)),
        3 => (0..3usize, prop::option::of(0..3usize)).prop_map(|(pod, app)| Step::Pod(pod, app)),
        1 => (0..2usize, any::<bool>()).prop_map(|(range, is_set)| Step::Base(range, is_set)),
        2 => Just(Step::Wait),
    ]
}

const APPS: [&str; 3] = ["a", "b", "c"];
const RANGES: [&str; 2] = ["10.1.0.0/16", "10.0.0.0/7"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_tables_are_as_the_compiler_has_them(steps in prop::collection::vec(step(), 1..60)) {
        let Some(Copy { programs, tables }) = copy(Sizes::default()) else { return Ok(()) };
        let mut writer = Writer::new(tables, programs.sizes(), Options::default());
        let mut compiler = Compiler::new("east", Options::default());
        compiler.note_changes();
        compiler.put_class(Class::Unknown("west".into()), Labels::default());
        let (specs, mut pods, mut now) = (specs(), HashMap::new(), Instant::now());
        for step in &steps {
            match step {
                Step::Put(name, spec) => compiler.put_policy(policy(*name, &specs[*spec])),
                Step::Remove(name) => compiler.remove_policy(&policy(*name, &specs[0]).reference),
                Step::Class(number, app) => {
                    let class = Class::Pod(*number, "east".into());
                    compiler.remove_class(&class);
                    if let Some(app) = app {
                        compiler.put_class(class, labels(APPS[*app]));
                    }
                }
                Step::Pod(pod, app) => {
                    if let Some(position) = pods.remove(pod) {
                        compiler.remove_subject(position);
                        writer.remove_endpoint(position, now);
                    }
                    if let Some(app) = app {
                        let position = compiler.add_subject(labels(APPS[*app]), Vec::new());
                        writer.add_endpoint(position, now).unwrap();
                        pods.insert(*pod, position);
                    }
                }
                Step::Base(range, is_set) => {
                    let class = is_set.then(|| Class::Unknown("west".into()));
                    writer.set_base(RANGES[*range].parse().unwrap(), class);
                }
                Step::Wait => {
                    now += Duration::from_secs(2);
                    let rested = writer.rested(now);
                    compiler.reuse(rested);
                }
            }
            let changes = compiler.take_changes();
            writer.apply(&compiler, changes, now).unwrap();
            prop_assert_eq!(writer.differences(&compiler), Vec::<String>::new(), "after {:?}", step);
        }
    }
}

/// One change costs what it changes: nothing else is noted.
#[test]
fn only_what_changes_is_noted() {
    let mut compiler = Compiler::new("east", Options::default());
    for number in 0..50 {
        compiler.put_class(Class::Pod(number, "east".into()), labels(APPS[number as usize % 3]));
    }
    let pods: Vec<usize> =
        APPS.iter().map(|app| compiler.add_subject(labels(app), Vec::new())).collect();
    compiler.note_changes();
    assert!(compiler.take_changes().classes.len() > 50, "all at first");
    let specs = specs();
    compiler.put_policy(policy(0, &specs[0]));
    let changes = compiler.take_changes();
    assert_eq!(changes.classes.len(), 17, "those with the label b: {:?}", changes.classes);
    assert_eq!(changes.subjects.into_iter().collect::<Vec<_>>(), [pods[0]]);
    assert!(changes.prefixes.is_empty() && !changes.in_mesh);
    compiler.put_policy(policy(0, &specs[0]));
    let changes = compiler.take_changes();
    assert!(
        changes.classes.is_empty() && changes.subjects.is_empty(),
        "the same again: {changes:?}"
    );
    compiler.put_class(Class::Pod(99, "east".into()), labels("b"));
    let changes = compiler.take_changes();
    assert_eq!((changes.classes.len(), changes.subjects.len()), (1, 0));
    compiler.remove_policy(&policy(0, &specs[0]).reference);
    let changes = compiler.take_changes();
    assert_eq!((changes.classes.len(), changes.freed.len()), (18, 1));
    // A number that rests is not used again.
    let used = changes.freed[0];
    compiler.put_policy(policy(1, &specs[2]));
    assert!(!compiler.rows().any(|(_, row)| row.contains(used)));
    compiler.reuse(changes.freed);
    compiler.put_policy(policy(2, &specs[0]));
    assert!(compiler.rows().any(|(_, row)| row.contains(used)));
}

/// A policy that is refused closes what it would govern, whatever others allow; what others deny stays denied.
#[test]
fn what_is_refused_is_closed() {
    let mut compiler = Compiler::new("east", Options::default());
    let [a, b] = ["a", "b"].map(|app| compiler.add_subject(labels(app), Vec::new()));
    compiler.put_policy(policy(0, &json!({ "endpointSelector": {}, "ingress": [{}], "ingressDeny": [{ "fromEntities": ["host"] }] })));
    let governs = |compiler: &Compiler, position| {
        let set = compiler.set(position, Direction::Ingress).unwrap();
        let rules: Vec<Action> = set.rules.iter().map(|rule| rule.action).collect();
        let denying: Vec<String> = set.denying.iter().map(|one| one.name.clone()).collect();
        (rules, denying)
    };
    let open = (vec![Action::Deny, Action::Allow], vec!["p0".to_owned()]);
    assert_eq!(governs(&compiler, a), open);
    let object = json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": { "namespace": "shop", "name": "p1" },
        "spec": { "endpointSelector": app("a"), "ingress": [{ "fromRequires": [{}] }] },
    });
    let checked = parse(&object, &LabelFilter::new([]).unwrap()).unwrap();
    compiler.put_closed(checked.reference.clone(), &checked.governs);
    let closed = (vec![Action::Deny], vec!["p0".to_owned(), "p1".to_owned()]);
    assert_eq!((governs(&compiler, a), governs(&compiler, b)), (closed, open.clone()));
    assert!(!compiler.set(a, Direction::Egress).unwrap().default_deny);
    // A later version that is understood.
    compiler.put_policy(policy(1, &specs()[0]));
    assert_eq!(governs(&compiler, a).0.len(), 3);
    compiler.put_closed(checked.reference.clone(), &checked.governs);
    compiler.remove_policy(&checked.reference);
    assert_eq!(governs(&compiler, a), open);
}

/// A table that is full leaves what there is as it is, and what could not be written is written once there is room.
#[test]
fn what_has_no_room_is_written_later() {
    let sizes = Sizes { sets: 2, ..Sizes::default() };
    let Some(Copy { programs, tables }) = copy(sizes) else { return };
    let mut writer = Writer::new(tables, programs.sizes(), Options::default());
    let mut compiler = Compiler::new("east", Options::default());
    compiler.note_changes();
    let mut now = Instant::now();
    let [a, b] = ["a", "b"].map(|app| compiler.add_subject(labels(app), Vec::new()));
    for position in [a, b] {
        writer.add_endpoint(position, now).unwrap();
    }
    let specs = specs();
    compiler.put_policy(policy(0, &specs[0]));
    let changes = compiler.take_changes();
    writer.apply(&compiler, changes, now).unwrap();
    compiler.put_policy(policy(1, &specs[3]));
    let changes = compiler.take_changes();
    let error = writer.apply(&compiler, changes, now).unwrap_err();
    assert_eq!(error.to_string(), "cm_sets is full");
    compiler.remove_policy(&policy(0, &specs[0]).reference);
    let changes = compiler.take_changes();
    writer.apply(&compiler, changes, now).unwrap_err();
    // The number has rested.
    now += Duration::from_secs(2);
    let changes = compiler.take_changes();
    writer.apply(&compiler, changes, now).unwrap();
    assert_eq!(writer.differences(&compiler), Vec::<String>::new());
}

/// An address that gets another identity: what was allowed by the former one is not by the new one, nor the other way round.
#[test]
fn an_address_has_one_identity_after_the_other() {
    let Some(Copy { mut programs, tables }) = copy(Sizes::default()) else { return };
    let mut writer = Writer::new(tables, programs.sizes(), Options::default());
    let mut compiler = Compiler::new("east", Options::default());
    compiler.note_changes();
    let mut now = Instant::now();
    let [friend, other] = [1, 2].map(|number| Class::Pod(number, "east".into()));
    compiler.put_class(friend.clone(), labels("b"));
    compiler.put_class(other.clone(), labels("c"));
    let port =
        NamedPort { name: "http".into(), port: Port { protocol: Protocol::Tcp, number: 8_080 } };
    let own = compiler.add_subject(labels("a"), vec![port]);
    let pod = writer.add_endpoint(own, now).unwrap();
    compiler.put_policy(policy(0, &specs()[0]));
    let changes = compiler.take_changes();
    writer.apply(&compiler, changes, now).unwrap();
    let address = "10.2.0.1".parse().unwrap();
    let packet =
        Packet::new(address, "10.1.0.1".parse().unwrap(), Carried::Tcp(50_000, 80, 2)).bytes();
    let mut verdict = || {
        let judged = programs.judge(FlowDirection::Ingress, pod, 1, &packet).unwrap();
        (judged.verdict, judged.identity)
    };
    assert_eq!(verdict(), (PacketVerdict::DefaultDeny, 0));
    let meant = |class: &Class, identity| Meant {
        class: class.clone(),
        identity,
        ports: Vec::new(),
        owner: None,
    };
    for round in 0..5 {
        writer.set_place(address, Some(&meant(&friend, 1)), now).unwrap();
        assert_eq!(verdict(), (PacketVerdict::AllowRule, 1), "{round}");
        writer.set_place(address, Some(&meant(&other, 2)), now).unwrap();
        assert_eq!(verdict(), (PacketVerdict::DefaultDeny, 2));
        now += Duration::from_secs(1);
    }
    writer.set_place(address, None, now).unwrap();
    assert_eq!((verdict(), writer.places()), ((PacketVerdict::DefaultDeny, 0), 0));
}
