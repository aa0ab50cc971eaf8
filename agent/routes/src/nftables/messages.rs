//! The requests to nftables. Its integers are in network order.

use ipnet::IpNet;

use super::{
    ExemptSet,
    intervals::{Interval, elements},
};
use crate::netlink::{NLM_F_ACK, NLM_F_CREATE, Request, octets};

/// A family of tables that we have one in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

/// Changes that are made together.
#[derive(Debug)]
pub(crate) struct Transaction {
    requests: Vec<Request>,
}

/// An expression of a rule, as far as ours has any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expression {
    /// Loads part of the network header.
    Payload { offset: u32, length: u32 },
    /// Goes on where a set has it.
    Lookup { set: String },
    /// Leaves the source as what was loaded.
    Snat { family: u32 },
    /// None that we write.
    Other,
}

pub(super) const TABLE: &str = "clustermesh";
pub(super) const CHAIN: &str = "postrouting";
/// Before other programs' masquerading (srcnat, 100): the first chain that decides about a source counts.
pub(super) const PRIORITY: u32 = 95;
pub(super) const HOOK_POSTROUTING: u32 = 4;
pub(super) const SET_INTERVAL: u32 = 4;
pub(super) const ELEMENT_END: u32 = 1;

pub(super) const NEWTABLE: u16 = message(0);
const GETTABLE: u16 = message(1);
const DELTABLE: u16 = message(2);
const NEWCHAIN: u16 = message(3);
const GETCHAIN: u16 = message(4);
const NEWRULE: u16 = message(6);
const GETRULE: u16 = message(7);
const DELRULE: u16 = message(8);
const NEWSET: u16 = message(9);
const GETSET: u16 = message(10);
const NEWSETELEM: u16 = message(12);
const GETSETELEM: u16 = message(13);
const DELSETELEM: u16 = message(14);
const GETGEN: u16 = message(16);
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u8 = 10;

/// Attributes that tables, chains, rules, sets and lists of elements have alike.
pub(super) const NAME: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const CHAIN_TYPE: u16 = 7;
pub(super) const HOOK_NUMBER: u16 = 1;
pub(super) const HOOK_PRIORITY: u16 = 2;
const RULE_CHAIN: u16 = 2;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
const SET_NAME: u16 = 2;
pub(super) const SET_FLAGS: u16 = 3;
pub(super) const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_ID: u16 = 10;
const SET_USERDATA: u16 = 13;
pub(super) const ELEMENTS: u16 = 3;
const ELEMENTS_SET_ID: u16 = 4;
pub(super) const LIST_ELEMENT: u16 = 1;
pub(super) const ELEMENT_KEY: u16 = 1;
pub(super) const ELEMENT_FLAGS: u16 = 3;
pub(super) const DATA_VALUE: u16 = 1;
pub(super) const EXPRESSION_NAME: u16 = 1;
pub(super) const EXPRESSION_DATA: u16 = 2;
const PAYLOAD_REGISTER: u16 = 1;
pub(super) const PAYLOAD_BASE: u16 = 2;
pub(super) const PAYLOAD_OFFSET: u16 = 3;
pub(super) const PAYLOAD_LENGTH: u16 = 4;
pub(super) const LOOKUP_SET: u16 = 1;
const LOOKUP_REGISTER: u16 = 2;
const LOOKUP_SET_ID: u16 = 4;
pub(super) const NAT_TYPE: u16 = 1;
pub(super) const NAT_FAMILY: u16 = 2;
const NAT_REGISTER: u16 = 3;
pub(super) const NETWORK_HEADER: u32 = 1;
const REGISTER: u32 = 1;

/// The user data that `nft` writes with a set, so that it shows its keys as addresses: they are in network order.
const USERDATA: [u8; 6] = [0, 4, 2, 0, 0, 0];
/// Elements in a message: a list of them has 64 KiB at most.
const AT_ONCE: usize = 400;

const fn message(number: u16) -> u16 {
    ((SUBSYSTEM as u16) << 8) | number
}

// === impl Family ===

impl Family {
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) fn of(range: &IpNet) -> Self {
        if range.addr().is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub(super) fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// nft's number of the type of its addresses, and their length in bytes.
    pub(super) fn key(self) -> (u32, u32) {
        match self {
            Self::V4 => (7, 4),
            Self::V6 => (8, 16),
        }
    }

    /// The rule: what is from our pods to others keeps its source.
    pub(super) fn rule(self) -> Vec<Expression> {
        let (source, destination) = match self {
            Self::V4 => (12, 16),
            Self::V6 => (8, 24),
        };
        let (_, length) = self.key();
        let lookup = |set: ExemptSet| Expression::Lookup { set: set.name().into() };
        vec![
            Expression::Payload { offset: source, length },
            lookup(ExemptSet::Pods),
            Expression::Payload { offset: destination, length },
            lookup(ExemptSet::Mesh),
            Expression::Payload { offset: source, length },
            Expression::Snat { family: self.number().into() },
        ]
    }
}

// === impl Transaction ===

impl Transaction {
    pub(crate) fn new() -> Self {
        Self { requests: vec![batch(BATCH_BEGIN)] }
    }

    /// Nothing but its begin.
    pub(crate) fn is_empty(&self) -> bool {
        self.requests.len() < 2
    }

    /// Makes the table with both sets, the chain and its rule.
    pub(crate) fn create(&mut self, family: Family) {
        let table = Request::new(NEWTABLE, NLM_F_CREATE, &header(family));
        self.requests.push(table.attribute(NAME, &name(TABLE)).attribute(2, &[0; 4]));
        for set in ExemptSet::ALL {
            let (kind, length) = family.key();
            let request =
                named(NEWSET, NLM_F_CREATE, family).attribute(SET_NAME, &name(set.name()));
            let request = request.attribute(SET_FLAGS, &SET_INTERVAL.to_be_bytes());
            let request = request.attribute(SET_KEY_TYPE, &kind.to_be_bytes());
            let request = request.attribute(SET_KEY_LENGTH, &length.to_be_bytes());
            let request = request.attribute(SET_ID, &set_id(set).to_be_bytes());
            self.requests.push(request.attribute(SET_USERDATA, &USERDATA));
        }
        let hook = |request: Request| {
            let request = request.attribute(HOOK_NUMBER, &HOOK_POSTROUTING.to_be_bytes());
            request.attribute(HOOK_PRIORITY, &PRIORITY.to_be_bytes())
        };
        let chain = named(NEWCHAIN, NLM_F_CREATE, family).attribute(CHAIN_NAME, &name(CHAIN));
        self.requests.push(chain.attribute(CHAIN_TYPE, &name("nat")).nested(CHAIN_HOOK, hook));
        self.add_rule(family);
    }

    /// Removes the table with all that is in it.
    pub(crate) fn delete(&mut self, family: Family) {
        self.requests.push(named(DELTABLE, 0, family));
    }

    /// Makes the chain hold our rule and no other. The chain stays: between the removal of one and the addition of
    /// another, packets pass that meet neither.
    pub(crate) fn replace_rules(&mut self, family: Family) {
        self.requests.push(named(DELRULE, 0, family).attribute(RULE_CHAIN, &name(CHAIN)));
        self.add_rule(family);
    }

    pub(crate) fn add(&mut self, family: Family, set: ExemptSet, intervals: &[Interval]) {
        self.elements(NEWSETELEM, NLM_F_CREATE, (family, set), intervals);
    }

    pub(crate) fn remove(&mut self, family: Family, set: ExemptSet, intervals: &[Interval]) {
        self.elements(DELSETELEM, 0, (family, set), intervals);
    }

    /// The messages; the last change is acknowledged.
    pub(super) fn finish(mut self) -> Vec<Request> {
        if let Some(last) = self.requests.pop() {
            self.requests.push(last.with(NLM_F_ACK));
        }
        self.requests.push(batch(BATCH_END));
        self.requests
    }

    fn add_rule(&mut self, family: Family) {
        let rule = family.rule();
        let request = named(NEWRULE, NLM_F_CREATE | crate::netlink::NLM_F_APPEND, family);
        let request = request.attribute(RULE_CHAIN, &name(CHAIN));
        let expressions = |request| rule.iter().fold(request, |request, one| one.write(request));
        self.requests.push(request.nested(RULE_EXPRESSIONS, expressions));
    }

    fn elements(
        &mut self,
        kind: u16,
        flags: u16,
        (family, set): (Family, ExemptSet),
        intervals: &[Interval],
    ) {
        for intervals in intervals.chunks(AT_ONCE) {
            let request = named(kind, flags, family).attribute(SET_NAME, &name(set.name()));
            let request = request.attribute(ELEMENTS_SET_ID, &set_id(set).to_be_bytes());
            self.requests.push(request.nested(ELEMENTS, |mut request| {
                for interval in intervals {
                    let (first, end) = elements(*interval);
                    request = element(request, &octets(first), 0);
                    if let Some(end) = end {
                        request = element(request, &octets(end), ELEMENT_END);
                    }
                }
                request
            }));
        }
    }
}

// === impl Expression ===

impl Expression {
    fn write(&self, request: Request) -> Request {
        let (word, register) = (|number: u32| number.to_be_bytes(), REGISTER.to_be_bytes());
        request.nested(LIST_ELEMENT, |request| match self {
            Self::Payload { offset, length } => {
                let request = request.attribute(EXPRESSION_NAME, &name("payload"));
                request.nested(EXPRESSION_DATA, |request| {
                    let request = request.attribute(PAYLOAD_REGISTER, &register);
                    let request = request.attribute(PAYLOAD_BASE, &word(NETWORK_HEADER));
                    let request = request.attribute(PAYLOAD_OFFSET, &word(*offset));
                    request.attribute(PAYLOAD_LENGTH, &word(*length))
                })
            }
            Self::Lookup { set } => {
                let id = ExemptSet::ALL.into_iter().find(|known| known.name() == set).map(set_id);
                let request = request.attribute(EXPRESSION_NAME, &name("lookup"));
                request.nested(EXPRESSION_DATA, |request| {
                    let request = request.attribute(LOOKUP_REGISTER, &register);
                    let request = request.attribute(LOOKUP_SET, &name(set));
                    request.attribute(LOOKUP_SET_ID, &word(id.unwrap_or_default()))
                })
            }
            Self::Snat { family } => {
                let request = request.attribute(EXPRESSION_NAME, &name("nat"));
                request.nested(EXPRESSION_DATA, |request| {
                    let request = request.attribute(NAT_TYPE, &word(0));
                    let request = request.attribute(NAT_FAMILY, &word(*family));
                    request.attribute(NAT_REGISTER, &register)
                })
            }
            Self::Other => request,
        })
    }
}

pub(super) fn get_generation() -> Request {
    Request::new(GETGEN, 0, &[0; 4])
}

pub(super) fn list_tables() -> Request {
    Request::new(GETTABLE, 0, &[0; 4])
}

pub(super) fn get_table(family: Family) -> Request {
    named(GETTABLE, 0, family)
}

pub(super) fn get_chain(family: Family, table: &str, chain: &str) -> Request {
    let request = Request::new(GETCHAIN, 0, &header(family)).attribute(NAME, &name(table));
    request.attribute(CHAIN_NAME, &name(chain))
}

pub(super) fn get_set(family: Family, set: ExemptSet) -> Request {
    named(GETSET, 0, family).attribute(SET_NAME, &name(set.name()))
}

pub(super) fn list_rules(family: Family) -> Request {
    named(GETRULE, 0, family).attribute(RULE_CHAIN, &name(CHAIN))
}

pub(super) fn list_elements(family: Family, set: ExemptSet) -> Request {
    named(GETSETELEM, 0, family).attribute(SET_NAME, &name(set.name()))
}

fn element(request: Request, key: &[u8], flags: u32) -> Request {
    request.nested(LIST_ELEMENT, |request| {
        let request = request.nested(ELEMENT_KEY, |request| request.attribute(DATA_VALUE, key));
        if flags == 0 {
            return request;
        }
        request.attribute(ELEMENT_FLAGS, &flags.to_be_bytes())
    })
}

/// A message about our table.
fn named(kind: u16, flags: u16, family: Family) -> Request {
    Request::new(kind, flags, &header(family)).attribute(NAME, &name(TABLE))
}

/// `nfgenmsg`.
fn header(family: Family) -> [u8; 4] {
    [family.number(), 0, 0, 0]
}

fn batch(kind: u16) -> Request {
    Request::new(kind, 0, &[0, 0, 0, SUBSYSTEM])
}

fn name(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// Names a set within a transaction.
fn set_id(set: ExemptSet) -> u32 {
    match set {
        ExemptSet::Pods => 1,
        ExemptSet::Mesh => 2,
    }
}
