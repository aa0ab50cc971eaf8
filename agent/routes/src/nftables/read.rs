//! Reads our table.

use std::{io, net::IpAddr};

use nix::libc::ENOENT;

use super::{
    ExemptSet, Family, Intervals,
    messages::{
        self, CHAIN_HOOK, CHAIN_TYPE, DATA_VALUE, ELEMENT_END, ELEMENT_FLAGS, ELEMENT_KEY,
        ELEMENTS, EXPRESSION_DATA, EXPRESSION_NAME, Expression, HOOK_NUMBER, HOOK_POSTROUTING,
        HOOK_PRIORITY, LOOKUP_SET, NAME, NAT_FAMILY, NAT_TYPE, NETWORK_HEADER, NEWTABLE,
        PAYLOAD_BASE, PAYLOAD_LENGTH, PAYLOAD_OFFSET, PRIORITY, RULE_EXPRESSIONS, SET_FLAGS,
        SET_INTERVAL, SET_KEY_TYPE,
    },
};
use crate::netlink::{Message, NetlinkSocket, Refused, Request, address, attributes, text};

/// Our table in one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Installed {
    pub(crate) form: Form,
    pub(crate) pods: Intervals,
    pub(crate) mesh: Intervals,
}

/// Whether the table is as we make it, but for the sets' elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Form {
    /// There is none.
    #[default]
    Absent,
    /// It is.
    Intact,
    /// Its rules are not.
    OtherRules,
    /// Its chain or sets are not.
    Other,
}

/// Bytes of `nfgenmsg`.
const FIXED: usize = 4;
const GENERATION_ID: u16 = 1;

// === impl Installed ===

impl Installed {
    pub(crate) fn set(&self, set: ExemptSet) -> &Intervals {
        match set {
            ExemptSet::Pods => &self.pods,
            ExemptSet::Mesh => &self.mesh,
        }
    }

    pub(crate) fn set_mut(&mut self, set: ExemptSet) -> &mut Intervals {
        match set {
            ExemptSet::Pods => &mut self.pods,
            ExemptSet::Mesh => &mut self.mesh,
        }
    }
}

/// The present table in a family.
pub(super) fn installed(socket: &mut NetlinkSocket, family: Family) -> io::Result<Installed> {
    let Some(()) = present(socket.ask(messages::get_table(family), |_| ())?)? else {
        return Ok(Installed::default());
    };
    let chain = messages::get_chain(family, messages::TABLE, messages::CHAIN);
    let mut fits = present(socket.ask(chain, chain_fits)?)?.unwrap_or(false);
    let mut installed = Installed { form: Form::Other, ..Installed::default() };
    for set in ExemptSet::ALL {
        let request = messages::get_set(family, set);
        fits &= present(socket.ask(request, |m| set_fits(m, family))?)?.unwrap_or(false);
        let listed = list(socket, &messages::list_elements(family, set), elements)?;
        *installed.set_mut(set) = Intervals::from_elements(listed.into_iter().flatten().collect());
    }
    if fits {
        let rules = list(socket, &messages::list_rules(family), rule)?;
        let is_ours = rules.len() == 1 && rules.first() == Some(&family.rule());
        installed.form = if is_ours { Form::Intact } else { Form::OtherRules };
    }
    Ok(installed)
}

pub(super) fn generation(message: Message<'_>) -> u32 {
    word(message.attributes(FIXED), GENERATION_ID)
}

pub(super) fn table_name(message: Message<'_>) -> Option<String> {
    let name = message.attributes(FIXED).find(|(kind, _)| *kind == NAME)?;
    (message.kind == NEWTABLE).then(|| text(name.1))
}

/// The object; `None` if it does not exist.
fn present<T>(asked: Result<T, Refused>) -> io::Result<Option<T>> {
    match asked {
        Ok(found) => Ok(Some(found)),
        Err(refused) if refused.errno == ENOENT => Ok(None),
        Err(refused) => Err(io::Error::other(refused.to_string())),
    }
}

/// A list; an empty one if the object does not exist.
fn list<T>(
    socket: &mut NetlinkSocket,
    request: &Request,
    read: impl FnMut(Message<'_>) -> Option<T>,
) -> io::Result<Vec<T>> {
    Ok(present(socket.list(request, read)?)?.unwrap_or_default())
}

fn chain_fits(message: Message<'_>) -> bool {
    let (mut kind, mut number, mut priority) = (String::new(), 0, 0);
    for (attribute, value) in message.attributes(FIXED) {
        match attribute {
            CHAIN_TYPE => kind = text(value),
            CHAIN_HOOK => {
                number = word(attributes(value), HOOK_NUMBER);
                priority = word(attributes(value), HOOK_PRIORITY);
            }
            _ => {}
        }
    }
    kind == "nat" && number == HOOK_POSTROUTING && priority == PRIORITY
}

fn set_fits(message: Message<'_>, family: Family) -> bool {
    let flags = word(message.attributes(FIXED), SET_FLAGS);
    flags == SET_INTERVAL && word(message.attributes(FIXED), SET_KEY_TYPE) == family.key().0
}

fn elements(message: Message<'_>) -> Option<Vec<(IpAddr, bool)>> {
    let (_, list) = message.attributes(FIXED).find(|(kind, _)| *kind == ELEMENTS)?;
    let element = |(_, element)| {
        let (_, key) = attributes(element).find(|(kind, _)| *kind == ELEMENT_KEY)?;
        let (_, value) = attributes(key).find(|(kind, _)| *kind == DATA_VALUE)?;
        let flags = word(attributes(element), ELEMENT_FLAGS);
        Some((address(value)?, flags & ELEMENT_END != 0))
    };
    Some(attributes(list).filter_map(element).collect())
}

fn rule(message: Message<'_>) -> Option<Vec<Expression>> {
    let (_, list) = message.attributes(FIXED).find(|(kind, _)| *kind == RULE_EXPRESSIONS)?;
    Some(attributes(list).map(|(_, one)| expression(one)).collect())
}

fn expression(bytes: &[u8]) -> Expression {
    let of = |wanted: u16| attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, v)| v);
    let data = of(EXPRESSION_DATA).unwrap_or_default();
    let number = |kind| word(attributes(data), kind);
    match of(EXPRESSION_NAME).map(text).as_deref() {
        Some("payload") if number(PAYLOAD_BASE) == NETWORK_HEADER => {
            Expression::Payload { offset: number(PAYLOAD_OFFSET), length: number(PAYLOAD_LENGTH) }
        }
        Some("lookup") => {
            let set = attributes(data).find(|(kind, _)| *kind == LOOKUP_SET);
            Expression::Lookup { set: set.map(|(_, value)| text(value)).unwrap_or_default() }
        }
        Some("nat") if number(NAT_TYPE) == 0 => Expression::Snat { family: number(NAT_FAMILY) },
        _ => Expression::Other,
    }
}

/// A 32-bit number in network order; 0 where there is none.
fn word<'a>(mut attributes: impl Iterator<Item = (u16, &'a [u8])>, kind: u16) -> u32 {
    let found = attributes.find(|(found, _)| *found == kind);
    found.and_then(|(_, value)| value.try_into().ok()).map_or(0, u32::from_be_bytes)
}
