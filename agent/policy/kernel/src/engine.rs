//! Answers flows by the kernel's programs.

use std::collections::BTreeMap;

use mesh_layout::policy::{FlowDirection, PacketVerdict};
use mesh_model::Protocol;
use mesh_policy::{
    Answer, Decision, DecisionKind, Directed, Direction, End, Judge, Mesh, PodName, Set, Traffic,
};
use mesh_policy_rules::{IcmpFamily, PolicyRef};

use crate::{
    copy::{Copy, Judged, Sizes},
    error::KernelError,
    fill::Filled,
    packet::{Carried, Packet},
    stand_ins::StandIns,
};

/// Asks copies of the programs: one for each cluster, as their nodes have different tables.
#[derive(Debug)]
pub struct Engine {
    /// The state of the mesh that the tables are of.
    revision: u64,
    stand_ins: StandIns,
    /// By cluster.
    copies: BTreeMap<String, Filled>,
    /// Loaded for clusters that are not there any more.
    idle: Vec<Filled>,
}

/// One end's question.
struct Question<'a> {
    pod: &'a PodName,
    direction: Direction,
    packet: &'a [u8],
    /// The packet was made on the pod's node.
    from_node: bool,
}

/// A client's port, of those that systems give to clients (RFC 6335 §6).
const CLIENT: u16 = 50_000;
/// The bit of TCP's flags that begins a connection.
const SYN: u8 = 2;
/// Any interface but those of pods.
const ELSEWHERE: u32 = 1;

// === impl Engine ===

impl Engine {
    /// An engine, if this user may have one.
    ///
    /// # Errors
    /// [`KernelError::NotPermitted`] without the rights for it, or the kernel's reason.
    pub fn new() -> Result<Self, KernelError> {
        // The first question would say so too, but that comes late.
        Copy::load(Sizes::default())?;
        let (stand_ins, copies) = (StandIns::default(), BTreeMap::new());
        Ok(Self { revision: 0, stand_ins, copies, idle: Vec::new() })
    }

    /// What is decided of a flow; `None` where there can be no packet of it: an address is another's too, or of another
    /// family than ICMP.
    pub fn answer(
        &mut self,
        mesh: &Mesh,
        from: &End,
        to: &End,
        traffic: Traffic,
    ) -> Result<Option<Answer>, KernelError> {
        if self.revision != mesh.revision() {
            self.idle.extend(std::mem::take(&mut self.copies).into_values());
            self.stand_ins = StandIns::new(mesh);
            self.revision = mesh.revision();
        }
        let icmp_v6 = match traffic {
            Traffic::Icmp(family, _) => Some(family == IcmpFamily::V6),
            Traffic::Port(..) => None,
        };
        let addresses = self.stand_ins.complete(from, to, icmp_v6.unwrap_or_default());
        let Some((source, destination)) = addresses else { return Ok(None) };
        let is_of_family = icmp_v6.is_none_or(|v6| v6 == source.is_ipv6());
        if !is_of_family || !mesh.is_at(from) || !mesh.is_at(to) {
            return Ok(None);
        }
        let packet = Packet::new(source, destination, carried(traffic)).bytes();
        let ((sender, sender_node), (receiver, _)) = (mesh.named(from), mesh.named(to));
        let mut directed = |pod: Option<&PodName>, direction| {
            let Some(pod) = pod else { return Ok(Directed::NotEnforced) };
            let node = mesh.view(&pod.cluster).and_then(|view| view.node_of(pod));
            let from_node = sender_node
                .is_some_and(|(cluster, name)| cluster == pod.cluster && Some(name) == node);
            self.ask(mesh, &Question { pod, direction, packet: &packet, from_node })
        };
        Ok(Some(Answer {
            egress: directed(sender, Direction::Egress)?,
            ingress: directed(receiver, Direction::Ingress)?,
        }))
    }

    fn ask(&mut self, mesh: &Mesh, question: &Question<'_>) -> Result<Directed, KernelError> {
        let Question { pod, direction, packet, from_node } = question;
        let Some(view) = mesh.view(&pod.cluster) else { return Ok(Directed::NotEnforced) };
        if !self.copies.contains_key(&pod.cluster) {
            let filled = Filled::new(self.idle.pop(), &view, &self.stand_ins)?;
            self.copies.insert(pod.cluster.clone(), filled);
        }
        let Some(filled) = self.copies.get_mut(&pod.cluster) else {
            return Ok(Directed::NotEnforced);
        };
        let Some(endpoint) = filled.at(&view, pod)? else { return Ok(Directed::NotEnforced) };
        let side = match direction {
            Direction::Egress => FlowDirection::Egress,
            Direction::Ingress => FlowDirection::Ingress,
        };
        let came_in_at = if *from_node { 0 } else { ELSEWHERE };
        let judged = filled.programs.judge(side, endpoint, came_in_at, packet)?;
        directed(filled.set(pod, *direction).map(|set| &**set), &judged)
    }
}

impl Judge for Engine {
    fn judge(
        &mut self,
        mesh: &Mesh,
        from: &End,
        to: &End,
        traffic: Traffic,
    ) -> Result<Option<Answer>, String> {
        self.answer(mesh, from, to, traffic).map_err(|error| error.to_string())
    }
}

/// What a program's verdict is in the words of policies.
fn directed(set: Option<&Set>, judged: &Judged) -> Result<Directed, KernelError> {
    let plain = |kind| Decision { kind, policies: Vec::new(), rule: None };
    let rule = || judged.rule.and_then(|at| set?.rules.get(at));
    let by_rule = |kind| {
        let rule = rule()?;
        Some(Decision {
            kind,
            policies: vec![PolicyRef::clone(&rule.policy)],
            rule: Some(rule.path.to_string()),
        })
    };
    let nonsense = || KernelError::Answer { program: "judge", answer: judged.verdict as u32 };
    let decision = match judged.verdict {
        PacketVerdict::DefaultAllow => plain(DecisionKind::DefaultAllow),
        PacketVerdict::AllowRule => by_rule(DecisionKind::AllowRule).ok_or_else(nonsense)?,
        PacketVerdict::DenyRule => by_rule(DecisionKind::DenyRule).ok_or_else(nonsense)?,
        PacketVerdict::DefaultDeny => {
            let denying = set.map(|set| set.denying.as_slice()).unwrap_or_default();
            let policies = denying.iter().map(|policy| PolicyRef::clone(policy)).collect();
            Decision { kind: DecisionKind::DefaultDeny, policies, rule: None }
        }
        PacketVerdict::AllowLocalhost => plain(DecisionKind::AllowLocalhost),
        PacketVerdict::EnforcementOff => plain(DecisionKind::EnforcementOff),
        PacketVerdict::SamePod => plain(DecisionKind::SamePod),
        // None of these can become of a first and whole packet.
        PacketVerdict::Undecided
        | PacketVerdict::Flow
        | PacketVerdict::FlowError
        | PacketVerdict::Fragment
        | PacketVerdict::NotJudged
        | PacketVerdict::Malformed
        | PacketVerdict::FragmentWithoutHead
        | PacketVerdict::RouterOnly
        | PacketVerdict::UnknownEndpoint => return Err(nonsense()),
    };
    Ok(if judged.passes { Directed::Allowed(decision) } else { Directed::Denied(decision) })
}

/// The first packet of a flow.
fn carried(traffic: Traffic) -> Carried {
    match traffic {
        Traffic::Port(Protocol::Tcp, port) => Carried::Tcp(CLIENT, port, SYN),
        Traffic::Port(Protocol::Udp, port) => Carried::Udp(CLIENT, port),
        Traffic::Port(Protocol::Sctp, port) => Carried::Sctp(CLIENT, port),
        Traffic::Icmp(_, kind) => Carried::Icmp(kind, CLIENT),
    }
}
