//! What becomes of packets of flows, errors and fragments: by the kernel's programs, at tables that are written here.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test"
)]

use std::net::IpAddr;

use mesh_layout::{
    address_bytes,
    policy::{
        Base, FLAG_LOCALHOST, FlowDirection, FlowEntry, FlowKey, PacketVerdict, Place,
        PolicyEndpoint, PortName, ROW_FIRST, ROW_NONE, ROW_WORLD_V4, Range, Rule, RulePorts,
        STATE_EPOCH, STATE_FLAGS, SetHeader,
    },
};
use mesh_policy_kernel::{Carried, Copy, Judged, KernelError, Packet, Sizes};

use FlowDirection::{Egress, Ingress};
use PacketVerdict::*;

/// The judged pod, at both its addresses.
const POD: u32 = 7;
const OWN: &str = "10.1.0.1";
const OWN_V6: &str = "fd00:1::1";
/// A pod that rules name, one that they do not, one that rules deny, an address of which nothing more than its cluster is
/// known, one outside, and the node's.
const FRIEND: &str = "10.2.0.1";
const FRIEND_V6: &str = "fd00:2::1";
const STRANGER: &str = "10.2.0.2";
const ENEMY: &str = "10.2.0.3";
const UNKNOWN: &str = "10.2.0.99";
const OUTSIDE: &str = "203.0.113.7";
const NODE: &str = "172.31.0.1";
const ROUTER: &str = "192.0.2.1";

const ROW_FRIEND: u32 = ROW_FIRST;
const ROW_ENEMY: u32 = ROW_FIRST + 1;
const FRIENDS: Option<u16> = Some(100);
const ENEMIES: Option<u16> = Some(2_047);

/// Sets: what the pod sends, what it receives, and one that allows nothing.
const SENDS: u32 = 1;
const RECEIVES: u32 = 2;
const NOTHING: u32 = 3;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const SECOND: u64 = 1_000_000_000;

/// The pod sends TCP 80 and echos to friends, and UDP 53 to everybody; it receives TCP 8080 of friends. Nobody and nothing
/// of enemies.
struct Node {
    copy: Copy,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn node() -> Option<Node> {
    let mut copy = match Copy::load(Sizes::default()) {
        Ok(copy) => copy,
        Err(KernelError::NotPermitted) => {
            println!("skipped: the kernel's programs, which only root may load");
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    let tables = &mut copy.tables;
    tables.set_row(ROW_FRIEND, &bits(FRIENDS));
    tables.set_row(ROW_ENEMY, &bits(ENEMIES));
    for (index, address, row) in [
        (1, FRIEND, ROW_FRIEND),
        (2, FRIEND_V6, ROW_FRIEND),
        (3, STRANGER, ROW_NONE),
        (4, ENEMY, ROW_ENEMY),
    ] {
        let place = Place {
            address: address_bytes(ip(address)),
            identity: 1_000 + index,
            row,
            ports: 5,
            owner: 0,
        };
        tables.places.set(index, &place);
        tables.set_address(ip(address), index).unwrap();
    }
    let name = PortName { class: 5, name: 9, port: 9_090, protocol: 6, reserved: 0 };
    tables.add_port_name(name).unwrap();
    let unknown = Range { base: Base::Unknown as u32, ..Range::default() };
    tables.set_range("10.2.0.0/16".parse().unwrap(), unknown).unwrap();
    tables.set_host(&[ip(NODE)], ROW_NONE).unwrap();
    let port = |protocol, port| RulePorts::Range { protocol, first: port, last: port };
    let allow = |selector, ports| Rule { selector, deny: false, ports };
    let deny = Rule { selector: ENEMIES, deny: true, ports: RulePorts::All };
    let sets: [(u32, &[Rule]); 3] = [
        (
            SENDS,
            &[
                deny,
                allow(FRIENDS, port(6, 80)),
                allow(FRIENDS, RulePorts::Icmp { protocol: 1, kind: 8 }),
                allow(FRIENDS, RulePorts::Icmp { protocol: 58, kind: 128 }),
                allow(FRIENDS, RulePorts::Named { protocol: 6, name: 9 }),
                allow(FRIENDS, RulePorts::Protocol(47)),
                allow(None, port(17, 53)),
            ],
        ),
        (
            RECEIVES,
            &[deny, allow(FRIENDS, RulePorts::Range { protocol: 6, first: 8_080, last: 8_082 })],
        ),
        (NOTHING, &[]),
    ];
    let mut start = 0;
    for (number, rules) in sets {
        for (index, rule) in (start..).zip(rules) {
            tables.set_rule(index, *rule);
        }
        let count = u16::try_from(rules.len()).unwrap();
        tables.set_set(number, SetHeader { start, count, default_deny: true });
        start += u32::from(count);
    }
    tables.set_endpoint(POD, PolicyEndpoint { egress: SENDS, ingress: RECEIVES });
    tables.set_state(STATE_FLAGS, FLAG_LOCALHOST);
    Some(Node { copy })
}

fn bits(selector: Option<u16>) -> Vec<u64> {
    let selector = selector.unwrap();
    let mut words = vec![0; 32];
    words[usize::from(selector / 64)] = 1 << (selector % 64);
    words
}

impl Node {
    fn judge(&mut self, direction: FlowDirection, packet: &Packet) -> Judged {
        self.copy.programs.judge(direction, POD, 1, &packet.bytes()).unwrap()
    }

    /// The pod sends.
    fn sends(&mut self, to: &str, carried: Carried) -> PacketVerdict {
        self.checked(Egress, &Packet::new(own(to), ip(to), carried))
    }

    /// Something comes for the pod.
    fn receives(&mut self, from: &str, carried: Carried) -> PacketVerdict {
        self.checked(Ingress, &Packet::new(ip(from), own(from), carried))
    }

    fn checked(&mut self, direction: FlowDirection, packet: &Packet) -> PacketVerdict {
        let Judged { passes, verdict, .. } = self.judge(direction, packet);
        let drops = [DenyRule, DefaultDeny, Malformed, FragmentWithoutHead, RouterOnly];
        assert_eq!(passes, !drops.contains(&verdict), "{verdict:?}");
        verdict
    }

    fn set_sets(&mut self, egress: u32, ingress: u32) {
        self.copy.tables.set_endpoint(POD, PolicyEndpoint { egress, ingress });
    }

    fn next_epoch(&mut self) {
        let epoch = self.copy.tables.state(STATE_EPOCH);
        self.copy.tables.set_state(STATE_EPOCH, epoch + 1);
    }

    /// All flows were last seen earlier than they were.
    fn pass(&mut self, seconds: u64) {
        self.change_flows(|entry| entry.seen = entry.seen.wrapping_sub(seconds * SECOND));
    }

    fn change_flows(&mut self, change: impl Fn(&mut FlowEntry)) {
        let all: Vec<(FlowKey, FlowEntry)> =
            self.copy.programs.flows.iter().map(Result::unwrap).collect();
        for (key, mut entry) in all {
            change(&mut entry);
            self.copy.programs.flows.insert(key, entry, 0).unwrap();
        }
    }

    fn flows(&self) -> usize {
        self.copy.programs.flows.keys().count()
    }
}

fn own(other: &str) -> IpAddr {
    ip(if ip(other).is_ipv6() { OWN_V6 } else { OWN })
}

fn tcp(source: u16, destination: u16, flags: u8) -> Carried {
    Carried::Tcp(source, destination, flags)
}

#[test]
fn a_rule_that_matches_first_decides() {
    let Some(mut node) = node() else { return };
    for (to, carried, verdict, rule) in [
        (FRIEND, tcp(50_000, 80, SYN), AllowRule, Some(1)),
        (FRIEND_V6, tcp(50_000, 80, SYN), AllowRule, Some(1)),
        (FRIEND, tcp(50_000, 81, SYN), DefaultDeny, None),
        (FRIEND, tcp(50_000, 9_090, SYN), AllowRule, Some(4)),
        (FRIEND, tcp(50_000, 9_091, SYN), DefaultDeny, None),
        (FRIEND, Carried::Udp(50_000, 80), DefaultDeny, None),
        (FRIEND, Carried::Udp(50_000, 53), AllowRule, Some(6)),
        (FRIEND, Carried::Sctp(50_000, 80), DefaultDeny, None),
        (FRIEND, Carried::Other(47), AllowRule, Some(5)),
        (FRIEND, Carried::Other(50), DefaultDeny, None),
        (STRANGER, tcp(50_000, 80, SYN), DefaultDeny, None),
        (STRANGER, Carried::Udp(50_000, 53), AllowRule, Some(6)),
        (ENEMY, Carried::Udp(50_000, 53), DenyRule, Some(0)),
        (UNKNOWN, Carried::Udp(50_000, 53), AllowRule, Some(6)),
        (OUTSIDE, Carried::Udp(50_000, 53), AllowRule, Some(6)),
        (OUTSIDE, tcp(50_000, 80, SYN), DefaultDeny, None),
    ] {
        let packet = Packet::new(own(to), ip(to), carried);
        let judged = node.judge(Egress, &packet);
        assert_eq!((judged.verdict, judged.rule), (verdict, rule), "{packet:?}");
    }
    let judged = node.judge(Egress, &Packet::new(own(FRIEND), ip(FRIEND), tcp(1, 80, SYN)));
    assert_eq!(judged.identity, 1_001);
    // The first and the last port of a range.
    for (port, verdict) in
        [(8_079, DefaultDeny), (8_080, AllowRule), (8_082, AllowRule), (8_083, DefaultDeny)]
    {
        assert_eq!(node.receives(FRIEND, tcp(50_000, port, SYN)), verdict, "{port}");
    }
}

#[test]
fn answers_pass_and_nothing_else_of_their_end() {
    let Some(mut node) = node() else { return };
    assert_eq!(node.receives(FRIEND, tcp(80, 50_000, SYN | ACK)), DefaultDeny);
    assert_eq!(node.sends(FRIEND, tcp(50_000, 80, SYN)), AllowRule);
    assert_eq!(node.receives(FRIEND, tcp(80, 50_000, SYN | ACK)), Flow);
    assert_eq!(node.sends(FRIEND, tcp(50_000, 80, ACK)), Flow);
    // A connection the other way, with the same ports.
    assert_eq!(node.receives(FRIEND, tcp(80, 50_000, SYN)), DefaultDeny);
    // Other ports, another end.
    assert_eq!(node.receives(FRIEND, tcp(80, 50_001, ACK)), DefaultDeny);
    assert_eq!(node.receives(STRANGER, tcp(80, 50_000, ACK)), DefaultDeny);
    // And of what the pod receives.
    assert_eq!(node.sends(FRIEND, tcp(8_080, 50_000, SYN | ACK)), DefaultDeny);
    assert_eq!(node.receives(FRIEND, tcp(50_000, 8_080, SYN)), AllowRule);
    assert_eq!(node.sends(FRIEND, tcp(8_080, 50_000, SYN | ACK)), Flow);
    // UDP, to where rules name nobody.
    assert_eq!(node.receives(OUTSIDE, Carried::Udp(53, 50_000)), DefaultDeny);
    assert_eq!(node.sends(OUTSIDE, Carried::Udp(50_000, 53)), AllowRule);
    assert_eq!(node.receives(OUTSIDE, Carried::Udp(53, 50_000)), Flow);
}

#[test]
fn what_is_denied_is_not_remembered() {
    let Some(mut node) = node() else { return };
    assert_eq!(node.sends(ENEMY, Carried::Udp(50_000, 53)), DenyRule);
    assert_eq!(node.sends(STRANGER, tcp(50_000, 80, SYN)), DefaultDeny);
    assert_eq!(node.flows(), 0);
    assert_eq!(node.receives(ENEMY, Carried::Udp(53, 50_000)), DenyRule);
}

#[test]
fn an_open_direction_is_remembered_where_the_other_is_not_open() {
    let Some(mut node) = node() else { return };
    node.set_sets(NOTHING, 0);
    assert_eq!(node.sends(STRANGER, tcp(9_000, 50_000, ACK)), DefaultDeny);
    assert_eq!(node.receives(STRANGER, tcp(50_000, 9_000, SYN)), DefaultAllow);
    assert_eq!(node.sends(STRANGER, tcp(9_000, 50_000, SYN | ACK)), Flow);
}

#[test]
fn a_new_epoch_or_set_judges_flows_anew_in_the_direction_in_which_they_began() {
    let Some(mut node) = node() else { return };
    assert_eq!(node.sends(FRIEND, tcp(50_000, 80, SYN)), AllowRule);
    assert_eq!(node.receives(FRIEND, tcp(80, 50_000, SYN | ACK)), Flow);
    // A row of somebody changed, and not this one: an answer comes first.
    node.next_epoch();
    let answer = Packet::new(ip(FRIEND), own(FRIEND), tcp(80, 50_000, ACK));
    let judged = node.judge(Ingress, &answer);
    assert_eq!((judged.verdict, judged.rule), (AllowRule, Some(1)), "of the rules for sending");
    assert_eq!(node.receives(FRIEND, tcp(80, 50_000, ACK)), Flow);
    // The friend's row: nothing of it passes, whoever sends.
    node.copy.tables.set_row(ROW_FRIEND, &[]);
    assert_eq!(node.receives(FRIEND, tcp(80, 50_000, ACK)), Flow, "until the epoch moves");
    node.next_epoch();
    assert_eq!(node.receives(FRIEND, tcp(80, 50_000, ACK)), DefaultDeny);
    assert_eq!(node.flows(), 0);
    assert_eq!(node.sends(FRIEND, tcp(50_000, 80, ACK)), DefaultDeny);
    // A set in which it is not allowed.
    node.copy.tables.set_row(ROW_FRIEND, &bits(FRIENDS));
    assert_eq!(node.sends(FRIEND, tcp(50_000, 80, SYN)), AllowRule);
    node.set_sets(NOTHING, RECEIVES);
    assert_eq!(node.receives(FRIEND, tcp(80, 50_000, SYN | ACK)), DefaultDeny);
    assert_eq!(node.sends(FRIEND, tcp(50_000, 80, ACK)), DefaultDeny);
}

#[test]
fn an_address_that_becomes_anothers_is_judged_anew() {
    let Some(mut node) = node() else { return };
    assert_eq!(node.sends(FRIEND, tcp(50_000, 80, SYN)), AllowRule);
    let place = Place {
        address: address_bytes(ip(FRIEND)),
        identity: 2_000,
        row: ROW_NONE,
        ports: 0,
        owner: 0,
    };
    node.copy.tables.places.set(50, &place);
    node.copy.tables.set_address(ip(FRIEND), 50).unwrap();
    node.copy.tables.places.clear(1);
    assert_eq!(node.receives(FRIEND, tcp(80, 50_000, SYN | ACK)), DefaultDeny);
    // One of which nothing was known becomes known.
    assert_eq!(node.sends(UNKNOWN, Carried::Udp(50_000, 53)), AllowRule);
    assert_eq!(node.sends(UNKNOWN, Carried::Udp(50_000, 53)), Flow);
    let place = Place { address: address_bytes(ip(UNKNOWN)), row: ROW_ENEMY, ..place };
    node.copy.tables.places.set(51, &place);
    node.copy.tables.set_address(ip(UNKNOWN), 51).unwrap();
    assert_eq!(node.receives(UNKNOWN, Carried::Udp(53, 50_000)), DenyRule);
}

#[test]
fn flows_are_forgotten_in_time() {
    let Some(mut node) = node() else { return };
    let answers = |node: &mut Node| node.receives(FRIEND, tcp(80, 50_000, ACK));
    // Not answered.
    assert_eq!(node.sends(FRIEND, tcp(50_000, 80, SYN)), AllowRule);
    node.pass(61);
    assert_eq!(answers(&mut node), DefaultDeny);
    // Answered: longer than UDP lives, and not forever.
    assert_eq!(node.sends(FRIEND, tcp(50_000, 80, SYN)), AllowRule);
    assert_eq!(answers(&mut node), Flow);
    node.pass(5 * 3_600);
    assert_eq!(answers(&mut node), Flow);
    node.pass(6 * 3_600 + 1);
    assert_eq!(answers(&mut node), DefaultDeny);
    // Closed by both, and not by one.
    assert_eq!(node.sends(FRIEND, tcp(50_000, 80, SYN)), AllowRule);
    assert_eq!(answers(&mut node), Flow);
    assert_eq!(node.sends(FRIEND, tcp(50_000, 80, FIN | ACK)), Flow);
    node.pass(600);
    assert_eq!(node.receives(FRIEND, tcp(80, 50_000, FIN | ACK)), Flow);
    node.pass(11);
    assert_eq!(answers(&mut node), DefaultDeny);
    // Reset.
    assert_eq!(node.sends(FRIEND, tcp(50_000, 80, SYN)), AllowRule);
    assert_eq!(node.receives(FRIEND, tcp(80, 50_000, RST | ACK)), Flow);
    node.pass(11);
    assert_eq!(answers(&mut node), DefaultDeny);
    // The same ports again, at once.
    assert_eq!(node.sends(FRIEND, tcp(50_000, 80, SYN)), AllowRule);
    assert_eq!(node.receives(FRIEND, tcp(80, 50_000, RST)), Flow);
    assert_eq!(node.sends(FRIEND, tcp(50_000, 80, SYN)), AllowRule);
    node.pass(59);
    assert_eq!(answers(&mut node), Flow);
    // UDP.
    let datagram = || Carried::Udp(50_000, 53);
    let answer = || Carried::Udp(53, 50_000);
    assert_eq!(node.sends(OUTSIDE, datagram()), AllowRule);
    node.pass(61);
    assert_eq!(node.receives(OUTSIDE, answer()), DefaultDeny);
    assert_eq!(node.sends(OUTSIDE, datagram()), AllowRule);
    assert_eq!(node.receives(OUTSIDE, answer()), Flow);
    node.pass(179);
    assert_eq!(node.receives(OUTSIDE, answer()), Flow);
    node.pass(181);
    assert_eq!(node.receives(OUTSIDE, answer()), DefaultDeny);
}

#[test]
fn an_entry_of_another_key_is_none() {
    let Some(mut node) = node() else { return };
    assert_eq!(node.sends(FRIEND, tcp(50_000, 80, SYN)), AllowRule);
    node.change_flows(|entry| entry.check ^= 1);
    assert_eq!(node.receives(FRIEND, tcp(80, 50_000, SYN | ACK)), DefaultDeny);
}

#[test]
fn checks_differ_with_each_part_of_a_key() {
    let secret = [1u64, 2, 3, 4, 5, 6].map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let key = FlowKey::default();
    let mut local = key;
    local.local = address_bytes(ip(OWN_V6));
    let mut swapped = key;
    swapped.peer = local.local;
    let others = [
        FlowKey { endpoint: 1, ..key },
        FlowKey { direction: 1, ..key },
        FlowKey { protocol: 6, ..key },
        FlowKey { local_port: 1, ..key },
        FlowKey { peer_port: 1, ..key },
        local,
        swapped,
    ];
    let checks = others.map(|key| key.check(&secret));
    let mut all = [&checks[..], &[key.check(&secret)]].concat();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), others.len() + 1, "{checks:?}");
    assert!(!all.contains(&0));
    assert_ne!(local.check(&secret), local.check(&[1; 6]), "whoever has another secret");
}

#[test]
fn echos_are_answered_and_answer_nothing() {
    let Some(mut node) = node() else { return };
    for (friend, ask, answer) in [(FRIEND, 8, 0), (FRIEND_V6, 128, 129)] {
        assert_eq!(node.receives(friend, Carried::Icmp(answer, 7)), DefaultDeny);
        assert_eq!(node.sends(friend, Carried::Icmp(ask, 7)), AllowRule);
        assert_eq!(node.receives(friend, Carried::Icmp(answer, 7)), Flow);
        assert_eq!(node.sends(friend, Carried::Icmp(ask, 7)), Flow);
        assert_eq!(node.receives(friend, Carried::Icmp(answer, 8)), DefaultDeny, "another's");
        assert_eq!(node.receives(friend, Carried::Icmp(ask, 7)), DefaultDeny, "a question");
        // Judged anew by an answer: the rule is about the question.
        node.next_epoch();
        assert_eq!(node.receives(friend, Carried::Icmp(answer, 7)), AllowRule);
        assert_eq!(node.receives(friend, Carried::Icmp(answer, 7)), Flow);
    }
}

#[test]
fn errors_about_flows_pass_from_any_router() {
    let Some(mut node) = node() else { return };
    let sent = Packet::new(own(FRIEND), ip(FRIEND), tcp(50_000, 80, SYN));
    let error = |about: &Packet, kind| Carried::Error(kind, Box::new(about.clone()));
    assert_eq!(node.receives(ROUTER, error(&sent, 3)), DefaultDeny, "of no flow");
    assert_eq!(node.checked(Egress, &sent), AllowRule);
    for kind in [3, 11, 12] {
        assert_eq!(node.receives(ROUTER, error(&sent, kind)), FlowError);
    }
    assert_eq!(node.receives(ROUTER, error(&sent, 5)), DefaultDeny, "a redirect is none");
    let other = Packet::new(own(FRIEND), ip(FRIEND), tcp(50_001, 80, SYN));
    assert_eq!(node.receives(ROUTER, error(&other, 3)), DefaultDeny);
    // An error keeps no flow alive.
    node.pass(61);
    assert_eq!(node.receives(ROUTER, error(&sent, 3)), DefaultDeny);
    // About an answer of the pod, and by the pod about what it received.
    let received = Packet::new(ip(FRIEND), own(FRIEND), tcp(50_000, 8_080, SYN));
    assert_eq!(node.sends(FRIEND, error(&received, 3)), DefaultDeny);
    assert_eq!(node.checked(Ingress, &received), AllowRule);
    assert_eq!(node.sends(FRIEND, error(&received, 3)), FlowError);
    let answer = Packet::new(own(FRIEND), ip(FRIEND), tcp(8_080, 50_000, ACK));
    assert_eq!(node.receives(ROUTER, error(&answer, 3)), FlowError);
    node.next_epoch();
    assert_eq!(node.receives(ROUTER, error(&answer, 3)), DefaultDeny, "not allowed any more");
    // Too big, of IPv6.
    let sent = Packet::new(own(FRIEND_V6), ip(FRIEND_V6), tcp(50_000, 80, SYN));
    assert_eq!(node.checked(Egress, &sent), AllowRule);
    let from = Packet::new(ip("2001:db8::1"), ip(OWN_V6), error(&sent, 2));
    assert_eq!(node.checked(Ingress, &from), FlowError);
    // Less of the packet than its ports.
    let cut = Packet { cut: Some(8 + 40 + 2), ..from };
    assert_eq!(node.checked(Ingress, &cut), DefaultDeny);
}

#[test]
fn fragments_follow_the_first() {
    let Some(mut node) = node() else { return };
    for (friend, enemy) in [(FRIEND, STRANGER), (FRIEND_V6, "fd00:2::2")] {
        let of = |to: &str, id, offset, more| Packet {
            fragment: Some((id, offset, more)),
            ..Packet::new(own(to), ip(to), tcp(50_000, 80, SYN))
        };
        assert_eq!(node.checked(Egress, &of(friend, 1, 64, false)), FragmentWithoutHead);
        assert_eq!(node.checked(Egress, &of(friend, 1, 0, true)), AllowRule);
        assert_eq!(node.checked(Egress, &of(friend, 1, 64, true)), Fragment);
        assert_eq!(node.checked(Egress, &of(friend, 1, 128, false)), Fragment);
        assert_eq!(node.checked(Egress, &of(friend, 2, 64, false)), FragmentWithoutHead);
        assert_eq!(node.checked(Egress, &of(enemy, 1, 0, true)), DefaultDeny);
        assert_eq!(node.checked(Egress, &of(enemy, 1, 64, true)), FragmentWithoutHead);
        // A part of the header of TCP.
        for offset in [8, 16] {
            let overlap = of(friend, 1, offset, true);
            assert_eq!(node.checked(Egress, &overlap), FragmentWithoutHead, "{offset}");
        }
        // A header that goes on in the next fragment.
        let cut = Packet { cut: Some(16), ..of(friend, 3, 0, true) };
        assert_eq!(node.checked(Egress, &cut), Malformed);
        // What allowed it is not in force any more.
        node.next_epoch();
        assert_eq!(node.checked(Egress, &of(friend, 1, 64, true)), FragmentWithoutHead);
        // The other direction has packets of its own.
        let received = Packet {
            fragment: Some((1, 64, false)),
            ..Packet::new(ip(friend), own(friend), tcp(80, 50_000, ACK))
        };
        assert_eq!(node.checked(Ingress, &received), FragmentWithoutHead);
        node.set_sets(SENDS, 0);
        assert_eq!(node.checked(Ingress, &received), Fragment, "nothing is under policy");
        node.set_sets(SENDS, RECEIVES);
    }
}

#[test]
fn headers_that_are_cut_short_are_dropped() {
    let Some(mut node) = node() else { return };
    for to in [FRIEND, FRIEND_V6] {
        for (carried, least) in [
            (tcp(50_000, 80, SYN), 20),
            (Carried::Udp(50_000, 53), 8),
            (Carried::Sctp(50_000, 80), 12),
            (Carried::Icmp(if to == FRIEND { 8 } else { 128 }, 1), 8),
        ] {
            let packet = Packet::new(own(to), ip(to), carried);
            for bytes in 0..least {
                let cut = Packet { cut: Some(bytes), ..packet.clone() };
                assert_eq!(node.checked(Egress, &cut), Malformed, "{packet:?} {bytes}");
            }
            let whole = Packet { cut: Some(least), ..packet.clone() };
            assert_ne!(node.checked(Egress, &whole), Malformed, "{packet:?}");
        }
        let packet = Packet::new(own(to), ip(to), tcp(50_000, 80, SYN)).bytes();
        // The kernel itself takes none whose IP header is not whole.
        let headers = if to == FRIEND { 34 } else { 54 };
        for bytes in headers..packet.len() {
            let judged = node.copy.programs.judge(Egress, POD, 1, &packet[..bytes]).unwrap();
            assert_eq!((judged.verdict, judged.passes), (Malformed, false), "{bytes}");
        }
        // A version that its header does not have.
        let mut wrong = packet.clone();
        wrong[14] = 0x10;
        assert_eq!(node.copy.programs.judge(Egress, POD, 1, &wrong).unwrap().verdict, Malformed);
    }
}

#[test]
fn headers_of_extension_hide_nothing() {
    let Some(mut node) = node() else { return };
    let packet = Packet::new(ip(OWN_V6), ip(FRIEND_V6), tcp(50_000, 80, SYN)).bytes();
    let with = |count: usize| {
        let mut bytes = packet.clone();
        bytes[20] = if count == 0 { 6 } else { 60 };
        for at in 0..count {
            let next = if at + 1 == count { 6 } else { 60 };
            let header = [next, 0, 1, 4, 0, 0, 0, 0];
            bytes.splice(54 + 8 * at..54 + 8 * at, header);
        }
        bytes
    };
    for count in 0..=5 {
        let judged = node.copy.programs.judge(Egress, POD, 1, &with(count)).unwrap();
        assert!(matches!(judged.verdict, AllowRule), "{count}: {judged:?}");
    }
    let judged = node.copy.programs.judge(Egress, POD, 1, &with(6)).unwrap();
    assert_eq!(judged.verdict, Malformed);
}

#[test]
fn the_node_is_known_by_where_packets_come_from() {
    let Some(mut node) = node() else { return };
    let probe = Packet::new(ip(NODE), ip(OWN), tcp(50_000, 9_000, SYN)).bytes();
    let judged = node.copy.programs.judge(Ingress, POD, 0, &probe).unwrap();
    assert_eq!(judged.verdict, AllowLocalhost);
    // Through the node, with its address: masqueraded, for somebody outside.
    let other = Packet::new(ip(NODE), ip(OWN), tcp(50_001, 9_000, SYN)).bytes();
    assert_eq!(node.copy.programs.judge(Ingress, POD, 2, &other).unwrap().verdict, DefaultDeny);
    // The answer to the probe passes, also when it is judged anew.
    assert_eq!(node.sends(NODE, tcp(9_000, 50_000, SYN | ACK)), Flow);
    node.next_epoch();
    assert_eq!(node.sends(NODE, tcp(9_000, 50_000, ACK)), AllowLocalhost);
    node.copy.tables.set_state(STATE_FLAGS, 0);
    node.next_epoch();
    assert_eq!(node.sends(NODE, tcp(9_000, 50_000, ACK)), DefaultDeny);
}

#[test]
fn a_place_of_another_address_is_none() {
    let Some(mut node) = node() else { return };
    // As a reader finds it that is slower than the writer.
    node.copy.tables.set_address(ip(STRANGER), 1).unwrap();
    assert_eq!(node.sends(STRANGER, tcp(50_000, 80, SYN)), DefaultDeny);
    node.copy.tables.places.clear(1);
    assert_eq!(node.sends(FRIEND, tcp(50_000, 80, SYN)), DefaultDeny);
}

#[test]
fn what_is_unknown_of_a_cluster_is_not_outside() {
    let Some(mut node) = node() else { return };
    let everything =
        Range { base: Base::World as u32, row: ROW_WORLD_V4, cidrs: ROW_FRIEND, reserved: 0 };
    node.copy.tables.set_range("0.0.0.0/0".parse().unwrap(), everything).unwrap();
    assert_eq!(node.sends(OUTSIDE, tcp(50_000, 80, SYN)), AllowRule);
    assert_eq!(node.sends(UNKNOWN, tcp(50_000, 80, SYN)), DefaultDeny);
    // Its range says what denies could mean it.
    let range =
        Range { base: Base::Unknown as u32, row: ROW_ENEMY, cidrs: ROW_FRIEND, reserved: 0 };
    node.copy.tables.set_range("10.2.0.0/16".parse().unwrap(), range).unwrap();
    assert_eq!(node.sends(UNKNOWN, Carried::Udp(50_001, 53)), DenyRule);
}

#[test]
fn a_pod_reaches_itself() {
    let Some(mut node) = node() else { return };
    assert_eq!(node.sends(OWN, tcp(50_000, 1, SYN)), SamePod);
    let place = Place {
        address: address_bytes(ip("10.1.0.9")),
        identity: 1,
        row: ROW_NONE,
        ports: 0,
        owner: POD + 1,
    };
    node.copy.tables.places.set(60, &place);
    node.copy.tables.set_address(ip("10.1.0.9"), 60).unwrap();
    assert_eq!(node.sends("10.1.0.9", tcp(50_000, 1, SYN)), SamePod);
}

#[test]
fn neighbours_are_found_and_pods_are_no_routers() {
    let Some(mut node) = node() else { return };
    node.set_sets(NOTHING, NOTHING);
    let packet = |kind, hops| Packet {
        hops,
        ..Packet::new(ip(OWN_V6), ip(FRIEND_V6), Carried::Icmp(kind, 0))
    };
    for (kind, hops, sent, received) in [
        (133, 255, NotJudged, NotJudged),
        (135, 255, NotJudged, NotJudged),
        (136, 255, NotJudged, NotJudged),
        (135, 64, DefaultDeny, DefaultDeny),
        (134, 255, RouterOnly, NotJudged),
        (137, 255, RouterOnly, DefaultDeny),
        (143, 1, NotJudged, NotJudged),
        (143, 64, DefaultDeny, DefaultDeny),
        (128, 255, DefaultDeny, DefaultDeny),
    ] {
        assert_eq!(node.checked(Egress, &packet(kind, hops)), sent, "{kind} {hops}");
        assert_eq!(node.checked(Ingress, &packet(kind, hops)), received, "{kind} {hops}");
    }
}

#[test]
fn what_is_no_ip_passes() {
    let Some(mut node) = node() else { return };
    let mut arp = Packet::new(ip(OWN), ip(FRIEND), tcp(1, 1, 0)).bytes();
    arp[12..14].copy_from_slice(&[8, 6]);
    let judged = node.copy.programs.judge(Egress, POD, 1, &arp).unwrap();
    assert_eq!((judged.verdict, judged.passes), (NotJudged, true));
    let packet = Packet::new(ip(OWN), ip(FRIEND), tcp(1, 1, 0)).bytes();
    let judged = node.copy.programs.judge(Egress, u32::MAX, 1, &packet).unwrap();
    assert_eq!(judged.verdict, UnknownEndpoint);
}

/// Nodes load the programs without what reports: other code, which the verifier has to take too.
#[test]
fn the_programs_of_nodes_are_taken_by_the_kernel() {
    let mut loader = aya::EbpfLoader::new();
    loader.btf(None);
    let mut ebpf = match loader.load(mesh_objects::POLICY) {
        Ok(ebpf) => ebpf,
        Err(error) if mesh_policy_kernel::is_denied(&error) => {
            println!("skipped: the kernel's programs, which only root may load");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    for name in ["cm_judge_egress", "cm_judge_ingress"] {
        let program: &mut aya::programs::SchedClassifier =
            ebpf.program_mut(name).unwrap().try_into().unwrap();
        program.load().unwrap();
    }
}
