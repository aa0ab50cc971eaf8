//! What becomes of a packet.

use aya_ebpf::{
    bindings::tcx_action_base::{TCX_DROP, TCX_NEXT},
    programs::TcContext,
};
use mesh_layout::policy::{
    FLAG_CIDRS_IN_MESH, FLAG_LOCALHOST, FLAG_OFF, FLOW_FROM_HOST, FlowDirection, FlowEntry,
    PacketVerdict,
};

use crate::{
    conntrack::{self, Known},
    context, fragments, maps,
    packet::{Fragment, ICMP_V6, Packet, Unread},
    peer, rules,
    work::{Decision, Hook, Traffic, Work},
};

/// The types of echo requests (RFC 792, RFC 4443 §4.1).
const ECHO: u8 = 8;
const ECHO_V6: u8 = 128;

/// Judges a packet of a pod.
#[inline(always)]
pub fn packet(ctx: &TcContext, direction: FlowDirection) -> i32 {
    let (endpoint, flows_of) = match maps::reports() {
        true => (Some(context::endpoint(ctx)), context::endpoint(ctx)),
        false => {
            let interface = context::interface(ctx);
            (maps::endpoint_at(interface), interface)
        }
    };
    let found = endpoint.and_then(|number| maps::endpoint(number).map(|sets| (number, sets)));
    let Some((endpoint, sets)) = found else {
        return finish(ctx, &Decision::of(PacketVerdict::UnknownEndpoint));
    };
    // Where it may be anything, and nothing has to be remembered.
    if sets.egress == 0 && sets.ingress == 0 && !maps::reports() {
        return TCX_NEXT;
    }
    let Some(work) = maps::work() else { return TCX_DROP };
    let sent_by_pod = matches!(direction, FlowDirection::Egress);
    work.hook = Hook {
        endpoint,
        flows_of,
        sets,
        flags: maps::flags() as u32,
        direction,
        sent_by_pod,
        from_host: sent_by_pod || context::came_in_at(ctx) == 0,
    };
    match Packet::read(ctx, &mut work.packet) {
        Ok(()) => judge(ctx, work),
        Err(Unread::Other) => work.decide(PacketVerdict::NotJudged),
        Err(Unread::Malformed) if work.hook.set() == 0 => work.decide(PacketVerdict::DefaultAllow),
        Err(Unread::Malformed) => work.decide(PacketVerdict::Malformed),
    }
    finish(ctx, &work.decision)
}

#[inline(always)]
fn judge(ctx: &TcContext, work: &mut Work) {
    let Work { hook, packet, .. } = work;
    if let Some(verdict) = never_judged(hook, packet) {
        return work.decide(verdict);
    }
    let set = hook.set();
    if let Fragment::Later(offset) = packet.fragment {
        let allowed =
            set == 0 || fragments::is_allowed(hook.flows_of, hook.direction, packet, offset, set);
        return work.decide(match allowed {
            true => PacketVerdict::Fragment,
            false => PacketVerdict::FragmentWithoutHead,
        });
    }
    if packet.is_error() && is_about_known(ctx, work) {
        return work.decide(PacketVerdict::FlowError);
    }
    with_flows(work);
    let Work { hook, packet, decision, .. } = work;
    if matches!(packet.fragment, Fragment::First) && set != 0 && !decision.is_drop() {
        fragments::remember(hook.flows_of, hook.direction, packet, set);
    }
}

/// Judges a packet by the flow that it belongs to, else by rules. A packet that begins a connection belongs to none that
/// there is, and neither is an echo another one's answer.
#[inline(never)]
fn with_flows(work: &mut Work) {
    if work.packet.is_icmp() && !work.packet.is_echo() && !work.packet.is_echo_reply() {
        return by_rules(work);
    }
    let (began, sent_by_pod) = (work.hook.direction, work.hook.sent_by_pod);
    let tcp = work.packet.transport.tcp;
    let begins = work.packet.begins();
    conntrack::key(&mut work.key, work.hook.flows_of, began, &work.packet, sent_by_pod);
    if !begins && !work.packet.is_echo_reply() {
        match conntrack::find(&work.key, work.hook.set(), false, tcp) {
            Known::Yes => return work.decide(PacketVerdict::Flow),
            Known::Stale { .. } => maps::remove_flow(&work.key),
            Known::No => {}
        }
    }
    if !begins && !work.packet.is_echo() {
        let from_host = work.hook.from_host;
        work.hook.turn();
        work.key.direction = work.hook.direction as u8;
        match conntrack::find(&work.key, work.hook.set(), true, tcp) {
            Known::Yes => return work.decide(PacketVerdict::Flow),
            Known::Stale { from_host } => {
                work.hook.from_host = from_host;
                by_rules(work);
                return match work.decision.is_drop() {
                    true => maps::remove_flow(&work.key),
                    false => work.remember(true),
                };
            }
            Known::No => {}
        }
        work.hook.turn();
        work.hook.from_host = from_host;
        work.key.direction = began as u8;
    }
    by_rules(work);
    if !work.packet.is_echo_reply() && !work.decision.is_drop() {
        work.remember(false);
    }
}

/// Judges by the rules of the direction in which the flow began.
#[inline(never)]
fn by_rules(work: &mut Work) {
    let Work { hook, packet, .. } = work;
    let (peer, own) = match hook.sent_by_pod {
        true => (&packet.destination, &packet.source),
        false => (&packet.source, &packet.destination),
    };
    let is_answer = hook.sent_by_pod != matches!(hook.direction, FlowDirection::Egress);
    let is_own = peer == own;
    let cidrs_in_mesh = hook.flags & FLAG_CIDRS_IN_MESH as u32 != 0;
    work.peer = peer::at(peer, packet.v6, hook.from_host, cidrs_in_mesh);
    let transport = &packet.transport;
    work.traffic = match is_answer {
        false => Traffic {
            protocol: packet.protocol,
            icmp: transport.icmp,
            port: transport.destination_port,
        },
        // Of the flow that it answers.
        true => Traffic {
            protocol: packet.protocol,
            icmp: if packet.v6 { ECHO_V6 } else { ECHO },
            port: transport.source_port,
        },
    };
    let peer = &work.peer;
    let decide =
        |verdict, rule| Decision { verdict, rule, place: peer.place, identity: peer.identity };
    work.decision = if is_own || peer.owner == hook.endpoint.wrapping_add(1) {
        decide(PacketVerdict::SamePod, 0)
    } else if hook.flags & FLAG_OFF as u32 != 0 {
        decide(PacketVerdict::EnforcementOff, 0)
    } else if let Some(set) = maps::set(hook.set()) {
        let is_localhost = peer.host
            && matches!(hook.direction, FlowDirection::Ingress)
            && hook.flags & FLAG_LOCALHOST as u32 != 0;
        let (rule, deny) = rules::first(set.start, set.count);
        let verdict = match (rule, deny) {
            (0, _) if !set.default_deny => PacketVerdict::DefaultAllow,
            (0, _) if is_localhost => PacketVerdict::AllowLocalhost,
            (0, _) => PacketVerdict::DefaultDeny,
            (_, true) => PacketVerdict::DenyRule,
            (_, false) => PacketVerdict::AllowRule,
        };
        decide(verdict, rule)
    } else {
        decide(PacketVerdict::DefaultDeny, 0)
    };
}

/// Whether an ICMP error is about a flow that is allowed. It may come from any router.
#[inline(never)]
fn is_about_known(ctx: &TcContext, work: &mut Work) -> bool {
    let Work { hook, packet, inner, key, .. } = work;
    if packet.read_inner(ctx, inner).is_err() || matches!(inner.fragment, Fragment::Later(_)) {
        return false;
    }
    // A pod complains about what it received, and hears complaints about what it sent.
    conntrack::key(key, hook.flows_of, hook.direction, inner, !hook.sent_by_pod);
    if conntrack::is_known(key, hook.set()) {
        return true;
    }
    let mut other = *hook;
    other.turn();
    key.direction = other.direction as u8;
    conntrack::is_known(key, other.set())
}

/// What is no matter of policies: how neighbours and routers are found, and groups are joined (RFC 4861, RFC 2710, RFC
/// 3810). Its hop limit says that no router has passed it on.
#[inline(always)]
fn never_judged(hook: &Hook, packet: &Packet) -> Option<PacketVerdict> {
    if packet.protocol != ICMP_V6 || !matches!(packet.fragment, Fragment::Whole) {
        return None;
    }
    match (packet.transport.icmp, packet.hops) {
        (133 | 135 | 136, 255) | (130 | 131 | 132 | 143, 1) => Some(PacketVerdict::NotJudged),
        (134 | 137, 255) if hook.sent_by_pod => Some(PacketVerdict::RouterOnly),
        (134, 255) => Some(PacketVerdict::NotJudged),
        _ => None,
    }
}

#[inline(always)]
fn finish(ctx: &TcContext, decision: &Decision) -> i32 {
    if maps::reports() {
        let Decision { verdict, rule, place, identity } = *decision;
        context::report(ctx, verdict as u32, rule, place, identity);
    }
    if decision.is_drop() { TCX_DROP } else { TCX_NEXT }
}

// === impl Work ===

impl Work {
    #[inline(always)]
    fn decide(&mut self, verdict: PacketVerdict) {
        self.decision = Decision::of(verdict);
    }

    /// Remembers the flow that was just allowed. `answers`: by a packet of the end that did not begin it.
    #[inline(always)]
    fn remember(&mut self, answers: bool) {
        let Self { hook, packet, key, decision, .. } = self;
        let entry = FlowEntry {
            check: 0,
            set: hook.set(),
            epoch: maps::epoch(),
            place: decision.place,
            seen: maps::now(),
            state: if hook.from_host { FLOW_FROM_HOST } else { 0 },
            reserved: 0,
        };
        conntrack::remember(key, entry, answers, packet.transport.tcp);
    }
}
