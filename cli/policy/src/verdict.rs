//! The answer to one flow.

use std::{collections::BTreeSet, net::IpAddr};

use mesh_model::NamedPort;
use mesh_policy::{Answer, Decision, DecisionKind, Directed, End};
use serde::Serialize;

use crate::{
    flow::{Asked, Flow},
    problem::Problem,
    service::{self, Backend},
    world::{Endpoint, Named, World},
};

/// What becomes of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Where it leaves.
    pub egress: Side,
    /// Where it arrives.
    pub ingress: Side,
    /// `allowed`, or `denied` if one side denies it.
    pub verdict: Side,
    /// By what.
    pub decided_by: DecidedBy,
    /// The same in words.
    pub why: String,
    /// What else to know.
    pub note: Option<String>,
    /// To a service: each of its backends.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<BackendVerdict>,
}

/// What one side says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// It passes.
    Allowed,
    /// It is dropped.
    Denied,
    /// Nobody judges there.
    NotEnforced,
}

/// By what each side decides; `null` where nobody judges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DecidedBy {
    /// Where it leaves.
    pub egress: Option<Reason>,
    /// Where it arrives.
    pub ingress: Option<Reason>,
}

/// A reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// One of seven kinds.
    pub kind: String,
    /// The policies, as `<Kind> <namespace>/<name>`.
    pub policies: Vec<String>,
    /// The rule within the policy.
    pub rule: Option<String>,
}

/// What becomes of a flow to one backend of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendVerdict {
    /// The backend: the name of its endpoint, or its address.
    pub backend: String,
    /// Its port.
    pub port: u16,
    /// The answer.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// Judges a flow. `part` names it in errors.
pub fn judge(world: &World, flow: &Flow, part: &str) -> Result<Verdict, Problem> {
    let asked = flow.asked(part)?;
    let from = world.named(&flow.from, part, "from")?;
    let to = world.named(&flow.to, part, "to")?;
    if let Named::Address(address) = from
        && service::is_in_range(world, address)
    {
        return Err(Problem::new(part, "from", "a service's address sends nothing"));
    }
    if let Named::Address(address) = to
        && let Some(found) = service::find(world, address, &asked, part)?
    {
        return to_service(world, &from, &found, part);
    }
    one(world, &from, &to, &asked, part)
}

fn to_service(
    world: &World,
    from: &Named<'_>,
    found: &service::Found,
    part: &str,
) -> Result<Verdict, Problem> {
    let mut answers = Vec::new();
    for backend in &found.backends {
        let to = Named::Address(backend.address);
        let asked = Asked::Port(backend.protocol, backend.port);
        answers.push((backend, answer(world, from, &to, &asked, part)?));
    }
    let directed = |side: fn(&Answer) -> &Directed| {
        let sides = answers.iter().map(|(_, (answer, _))| side(answer));
        sides.min_by_key(|one| Side::of(one).rank()).cloned()
    };
    let combined = directed(|answer| &answer.egress).zip(directed(|answer| &answer.ingress));
    let Some((egress, ingress)) = combined else {
        let reason = format!("service {} has no backend", found.name);
        return Err(Problem::new(part, "to", reason));
    };
    let backends = answers.into_iter().map(|(Backend { address, port, .. }, (answer, note))| {
        let end = world.at(*address);
        BackendVerdict {
            backend: end.map_or_else(|| address.to_string(), Endpoint::location),
            port: *port,
            verdict: Verdict::of(&answer, note),
        }
    });
    let backends: Vec<BackendVerdict> = backends.collect();
    let passed = backends.iter().filter(|one| one.verdict.verdict == Side::Allowed).count();
    let ports: BTreeSet<u16> = backends.iter().map(|one| one.port).collect();
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    let (name, count, ports) = (&found.name, backends.len(), ports.join(", "));
    let note = format!("service {name}: {passed} of {count} backends allowed, at port {ports}");
    Ok(Verdict { backends, ..Verdict::of(&Answer { egress, ingress }, Some(note)) })
}

/// Judges a flow between two ends.
fn one(
    world: &World,
    from: &Named<'_>,
    to: &Named<'_>,
    asked: &Asked,
    part: &str,
) -> Result<Verdict, Problem> {
    let (answer, note) = answer(world, from, to, asked, part)?;
    Ok(Verdict::of(&answer, note))
}

/// What is decided of a flow between two ends, at the addresses of a family that both have, and what else to know.
fn answer(
    world: &World,
    from: &Named<'_>,
    to: &Named<'_>,
    asked: &Asked,
    part: &str,
) -> Result<(Answer, Option<String>), Problem> {
    let (from, to) = (&known(world, from), &known(world, to));
    let (senders, receivers) = (addresses(from), addresses(to));
    let mut common = senders.iter().filter(|one| asked.allows(**one)).filter_map(|one| {
        receivers.iter().find(|other| other.is_ipv6() == one.is_ipv6()).map(|other| (*one, *other))
    });
    let (source, destination, note) = match common.next() {
        Some((source, destination)) => (Some(source), Some(destination), None),
        None => {
            // An address outside the mesh stays what rules about ranges look at.
            let own = |end: &Named<'_>, all: &[IpAddr]| match end {
                Named::Endpoint(one) | Named::At(one, _) if one.is_in_mesh() => None,
                _ => all.first().copied(),
            };
            let note = "the ends have no address family in common: judged by identity";
            (own(from, &senders), own(to, &receivers), Some(note.to_owned()))
        }
    };
    let named = receiving_ports(to);
    let v6 = match destination.or(source) {
        Some(address) => address.is_ipv6(),
        None => receivers.first().or(senders.first()).is_some_and(IpAddr::is_ipv6),
    };
    let traffic = asked.traffic(&named, v6, part)?;
    let (from, to) = (end(from, source), end(to, destination));
    let (answer, also) = world.judge(&from, &to, traffic, part)?;
    let notes: Vec<&str> = note.as_deref().into_iter().chain(also).collect();
    Ok((answer, (!notes.is_empty()).then(|| notes.join("; "))))
}

/// Judges between two endpoints.
pub(crate) fn between(
    world: &World,
    from: &Endpoint,
    to: &Endpoint,
    asked: &Asked,
    part: &str,
) -> Result<Verdict, Problem> {
    one(world, &Named::Endpoint(from), &Named::Endpoint(to), asked, part)
}

/// The endpoint at an address, with that address only.
fn known<'a>(world: &'a World, end: &Named<'a>) -> Named<'a> {
    match end {
        Named::Address(address) => {
            world.at(*address).map_or(Named::Address(*address), |one| Named::At(one, *address))
        }
        named => named.clone(),
    }
}

fn addresses(end: &Named<'_>) -> Vec<IpAddr> {
    match end {
        Named::Endpoint(endpoint) => endpoint.addresses.clone(),
        Named::At(_, address) => vec![*address],
        Named::Address(address) => vec![*address],
    }
}

fn end(named: &Named<'_>, address: Option<IpAddr>) -> End {
    match named {
        Named::Endpoint(endpoint) | Named::At(endpoint, _) => endpoint.end(address),
        Named::Address(address) => End::Address(*address),
    }
}

fn receiving_ports(to: &Named<'_>) -> Vec<NamedPort> {
    let pod = match to {
        Named::Endpoint(endpoint) | Named::At(endpoint, _) => endpoint.pod.as_ref(),
        Named::Address(_) => None,
    };
    pod.map(|pod| pod.template.named_ports.clone()).unwrap_or_default()
}

// === impl Verdict ===

impl Verdict {
    pub(crate) fn of(answer: &Answer, note: Option<String>) -> Self {
        let Answer { egress, ingress } = answer;
        let passes = egress.passes() && ingress.passes();
        Self {
            egress: Side::of(egress),
            ingress: Side::of(ingress),
            verdict: if passes { Side::Allowed } else { Side::Denied },
            decided_by: DecidedBy { egress: reason(egress), ingress: reason(ingress) },
            why: format!("egress: {}; ingress: {}", words(egress), words(ingress)),
            note,
            backends: Vec::new(),
        }
    }
}

// === impl Side ===

impl Side {
    pub(crate) fn of(directed: &Directed) -> Self {
        match directed {
            Directed::NotEnforced => Self::NotEnforced,
            Directed::Allowed(_) => Self::Allowed,
            Directed::Denied(_) => Self::Denied,
        }
    }

    /// Of the answers of several backends, which is the service's: the least.
    fn rank(self) -> u8 {
        match self {
            Self::Denied => 0,
            Self::Allowed => 1,
            Self::NotEnforced => 2,
        }
    }

    /// As a letter of the matrix.
    pub(crate) fn letter(self) -> char {
        match self {
            Self::Allowed => 'A',
            Self::Denied => 'D',
            Self::NotEnforced => '-',
        }
    }
}

fn reason(directed: &Directed) -> Option<Reason> {
    directed.decision().map(|decision| Reason {
        kind: decision.kind.to_string(),
        policies: decision.policies.iter().map(ToString::to_string).collect(),
        rule: decision.rule.clone(),
    })
}

fn words(directed: &Directed) -> String {
    let Some(Decision { kind, policies, rule }) = directed.decision() else {
        return "no policy applies at this end".into();
    };
    let policies: Vec<String> = policies.iter().map(ToString::to_string).collect();
    let policies = policies.join(", ");
    let rule = rule.as_deref().unwrap_or_default();
    match kind {
        DecisionKind::DefaultAllow => "allowed, no policy restricts the pod".into(),
        DecisionKind::AllowRule => format!("allowed by {rule} of {policies}"),
        DecisionKind::DenyRule => format!("denied by {rule} of {policies}"),
        DecisionKind::DefaultDeny if policies.is_empty() => {
            "denied, enforcement is on for all pods and no rule allows it".into()
        }
        DecisionKind::DefaultDeny => {
            format!("denied, no rule allows it, and the pod is restricted by {policies}")
        }
        DecisionKind::AllowLocalhost => "allowed, it comes from the pod's own node".into(),
        DecisionKind::EnforcementOff => "allowed, enforcement is off".into(),
        DecisionKind::SamePod => "allowed, a pod reaches itself".into(),
    }
}
