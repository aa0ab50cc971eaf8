//! What policies cost the compiler of an agent: the time for an identity, a policy and many ranges, and the memory.
//!
//! The reference is the same question without an index: an identity's labels are compared with every selector.

use std::{hint::black_box, process, time::Duration};

use ipnet::{IpNet, Ipv4Net};
use mesh_model::{
    Label, Labels,
    identity::{CLUSTER_LABEL, NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX, SERVICE_ACCOUNT_LABEL},
};
use mesh_policy::{Class, Compiler, Options};
use mesh_policy_rules::{
    Action, CidrRule, DirectionRules, Operator, Peer, Peers, Policy, PolicyKind, PolicyRef,
    PortRule, Ports, Requirement, Rule, Selector,
};
use serde::Serialize;

use crate::{
    error::BenchError,
    stats::median,
    usage::{resident, thread_cpu},
};

/// The parameters of [`policy`].
#[derive(Clone, Copy, Debug)]
pub struct PolicyOptions {
    /// Identities in the mesh.
    pub identities: u32,
    /// Policies in the cluster.
    pub policies: u32,
    /// Ranges in one rule.
    pub cidrs: u32,
    /// How often each change is made.
    pub rounds: u32,
}

/// What policies cost at one size. Times are CPU time, medians.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyCost {
    /// Identities.
    pub identities: u32,
    /// Policies, each of which selects ten identities.
    pub policies: u32,
    /// Ranges in one rule.
    pub cidrs: u32,
    /// Resident bytes of all identities and policies.
    pub resident: u64,
    /// A new identity, in microseconds.
    pub identity_micros: f64,
    /// The same identity compared with every selector, in microseconds.
    pub compared_micros: f64,
    /// The ratio of the two.
    pub ratio: f64,
    /// A new policy whose selector matches ten identities, in milliseconds.
    pub few_millis: f64,
    /// One whose selector requires a label that all have, in milliseconds.
    pub all_millis: f64,
    /// One whose selector excludes values (`NotIn`), in milliseconds.
    pub not_in_millis: f64,
    /// One whose selector excludes a label (`DoesNotExist`), in milliseconds.
    pub absent_millis: f64,
    /// A policy with all ranges in one rule, in milliseconds.
    pub cidrs_millis: f64,
}

const CLUSTER: &str = "a";
/// Pods of the node: their rules are compiled too.
const PODS: u32 = 100;
const ALIKE: u32 = 10;
const NAMESPACES: u32 = 100;

/// Measures at a tenth of the size, and at the size.
pub fn policy(
    options: PolicyOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<PolicyCost>, BenchError> {
    let tenth = PolicyOptions {
        identities: (options.identities / 10).max(1),
        policies: (options.policies / 10).max(1),
        cidrs: (options.cidrs / 10).max(1),
        ..options
    };
    let mut rows = Vec::new();
    for (done, size) in (0..).zip([tenth, options]) {
        progress(done, 2);
        rows.push(measure(size)?);
    }
    Ok(rows)
}

fn measure(size: PolicyOptions) -> Result<PolicyCost, BenchError> {
    let PolicyOptions { identities, policies, cidrs, rounds } = size;
    let own = i32::try_from(process::id()).unwrap_or_default();
    let before = resident(own)?;
    let mut compiler = Compiler::new(CLUSTER, Options::default());
    for pod in 0..PODS.min(identities) {
        compiler.add_subject(labels(pod), Vec::new());
    }
    for identity in 0..identities {
        compiler.put_class(class(identity), labels(identity));
    }
    let mut selectors = Vec::new();
    for number in 0..policies {
        let application = number % (identities / ALIKE).max(1);
        let selector = labelled("app", Operator::In(vec![app(application * ALIKE)]));
        selectors.push(selector.clone());
        compiler.put_policy(of(number, Peer::Pods(selector)));
    }
    let used = resident(own)?.saturating_sub(before);

    let (mut fresh, mut compared) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let (new, labels) = (class(identities + round), labels(round % identities));
        fresh.push(micros(time(|| compiler.put_class(new.clone(), labels.clone()))?));
        compared.push(micros(time(|| {
            black_box(selectors.iter().filter(|one| one.matches(&labels)).count());
        })?));
        compiler.remove_class(&new);
    }
    let (identity_micros, compared_micros) = (median(fresh), median(compared));
    let mut one = |peers: Vec<Peer>| -> Result<f64, BenchError> {
        let policy = |round| with_peers(policies + round, peers.clone());
        let mut times = Vec::new();
        for round in 0..rounds.min(20) {
            let policy = policy(round);
            let reference = policy.reference.clone();
            times.push(micros(time(|| compiler.put_policy(policy))?) / 1_000.0);
            compiler.remove_policy(&reference);
        }
        Ok(median(times))
    };
    let pods = |key: &str, operator| vec![Peer::Pods(labelled(key, operator))];
    let range = |number: u32| CidrRule {
        cidr: IpNet::V4(Ipv4Net::new_assert((0x0b00_0000 + number * 256).into(), 24)),
        except: Vec::new(),
        network_policy: false,
    };
    Ok(PolicyCost {
        identities,
        policies,
        cidrs,
        resident: used,
        identity_micros,
        compared_micros,
        ratio: identity_micros / compared_micros,
        few_millis: one(pods("app", Operator::In(vec![app(identities - 1), "none".into()])))?,
        all_millis: one(pods("tier", Operator::Exists))?,
        not_in_millis: one(pods("app", Operator::NotIn(vec![app(0)])))?,
        absent_millis: one(pods("canary", Operator::DoesNotExist))?,
        cidrs_millis: one((0..cidrs).map(|number| Peer::Cidr(range(number))).collect())?,
    })
}

fn class(number: u32) -> Class {
    Class::Pod(number, CLUSTER.into())
}

/// Ten identities are alike but for their version; each has eight labels.
fn labels(number: u32) -> Labels {
    let namespace = format!("ns{}", (number / ALIKE) % NAMESPACES);
    let team = format!("{NAMESPACE_LABELS_PREFIX}team");
    let labels = [
        ("app", app(number)),
        ("version", format!("v{}", number % ALIKE)),
        ("tier", if number.is_multiple_of(2) { "web" } else { "store" }.to_owned()),
        ("app.kubernetes.io/managed-by", "helm".to_owned()),
        (&team, format!("team{}", number % 7)),
        (NAMESPACE_LABEL, namespace),
        (CLUSTER_LABEL, CLUSTER.to_owned()),
        (SERVICE_ACCOUNT_LABEL, "default".to_owned()),
    ];
    labels.into_iter().map(|(key, value)| Label::kubernetes(key, value)).collect()
}

fn app(number: u32) -> String {
    format!("app{}", number / ALIKE)
}

fn labelled(key: &str, operator: Operator) -> Selector {
    Selector::default().and(Requirement::kubernetes(key, operator))
}

fn of(number: u32, peer: Peer) -> Policy {
    with_peers(number, vec![peer])
}

/// A policy of pods that are alike: some are of this node.
fn with_peers(number: u32, peers: Vec<Peer>) -> Policy {
    let rule = PortRule {
        path: "ingress[0]".into(),
        action: Action::Allow,
        peers: Peers::Of(peers),
        ports: Ports::Any,
    };
    Policy {
        reference: PolicyRef {
            kind: PolicyKind::CiliumNetworkPolicy,
            namespace: format!("ns{}", number % NAMESPACES),
            name: format!("policy{number}"),
        },
        rules: vec![Rule {
            subject: labelled("app", Operator::In(vec![app(number * ALIKE)])),
            ingress: DirectionRules { default_deny: true, rules: vec![rule] },
            egress: DirectionRules::default(),
        }],
    }
}

fn time(run: impl FnOnce()) -> Result<Duration, BenchError> {
    let before = thread_cpu()?;
    run();
    Ok(thread_cpu()?.saturating_sub(before))
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
