//! The first rule of a set that decides.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use mesh_layout::policy::{PortName, ROW_IN_MESH, RULES_OF_A_SET, RuleWords};

use crate::{
    maps,
    packet::{SCTP, TCP, UDP},
    work::{Peer, Traffic},
};

/// The search for a rule. What it looks for is in the run's work: a loop may have no other memory than the stack.
struct Search {
    start: u32,
    /// The position of the rule that was found, plus one.
    found: u32,
    deny: u32,
}

/// The position of the first rule of a set that matches what is at work, plus one, and whether it is a deny; 0: none does.
#[inline(always)]
pub fn first(start: u32, count: u16) -> (u32, bool) {
    let mut search = Search { start, found: 0, deny: 0 };
    let count = u32::from(count);
    let steps = if count < RULES_OF_A_SET { count } else { RULES_OF_A_SET };
    // A loop of the kernel's, because the verifier checks its body once and not once for each step.
    // SAFETY: `step` has the signature that the helper calls, and `search` outlives the call.
    unsafe { bpf_loop(steps, step as *mut c_void, (&raw mut search).cast(), 0) };
    (search.found, search.deny != 0)
}

/// Looks at one rule; 1 ends the loop.
unsafe extern "C" fn step(step: u64, search: *mut Search) -> i64 {
    // SAFETY: `bpf_loop` hands on the pointer that `first` gave it.
    let search = unsafe { &mut *search };
    let Some(work) = maps::work() else { return 1 };
    let Some(rule) = maps::rule(search.start.wrapping_add(step as u32)) else { return 1 };
    if !matches(&rule, &work.peer, &work.traffic) {
        return 0;
    }
    search.found = step as u32 + 1;
    search.deny = rule.is_deny() as u32;
    1
}

/// Written with one comparison a kind: where the parts of a kind are kept in a variable of several, the compiler reads
/// them before it knows the kind, which the verifier refuses.
#[inline(always)]
fn matches(rule: &RuleWords, peer: &Peer, traffic: &Traffic) -> bool {
    let kind = rule.kind();
    let protocol = rule.protocol();
    let is_protocol = protocol == traffic.protocol;
    let has_ports = matches!(traffic.protocol, TCP | UDP | SCTP);
    let is_port = if kind == RuleWords::ALL {
        true
    } else if kind == RuleWords::RANGE {
        is_protocol && has_ports && rule.first() <= traffic.port && traffic.port <= rule.last()
    } else if kind == RuleWords::ICMP {
        is_protocol && rule.first() == u16::from(traffic.icmp)
    } else if kind == RuleWords::PROTOCOL {
        is_protocol
    } else {
        let name = PortName {
            class: peer.ports,
            name: rule.name(),
            port: traffic.port,
            protocol: traffic.protocol,
            reserved: 0,
        };
        kind == RuleWords::NAMED
            && (protocol == 0 || is_protocol)
            && has_ports
            && peer.ports != 0
            && maps::has_port(&name)
    };
    let selector = rule.selector();
    is_port && (selector == 0 || selects(selector - 1, rule.is_deny(), peer))
}

/// Whether a selector matches the other end. What is unknown has in its row only the denies that could mean it.
#[inline(always)]
fn selects(selector: u16, deny: bool, peer: &Peer) -> bool {
    maps::row_has(peer.row, selector)
        || (maps::row_has(peer.cidrs, selector)
            && (!peer.in_mesh || maps::row_has(ROW_IN_MESH, selector))
            && (!peer.unknown || deny))
}
