//! The ports and ICMP types of a rule of Cilium's kinds.

use mesh_model::{Protocol, RefusalClass};
use serde_json::Value;

use crate::{
    path::Path,
    port::{CiliumPort, icmp_type},
    read::{Fields, Reader, quoted},
    rule::{IcmpFamily, PortMatch, Ports},
};

/// How many ports or ICMP types an entry may have in Cilium.
const MOST: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum L4 {
    /// TCP, UDP and SCTP.
    Any,
    Of(Protocol),
    /// A protocol without ports, by its number.
    Bare(u8),
}

const PROTOCOLS: [(&str, L4); 6] = [
    ("ANY", L4::Any),
    ("TCP", L4::Of(Protocol::Tcp)),
    ("UDP", L4::Of(Protocol::Udp)),
    ("SCTP", L4::Of(Protocol::Sctp)),
    ("VRRP", L4::Bare(112)),
    ("IGMP", L4::Bare(2)),
];
const FAMILIES: [(&str, IcmpFamily); 2] = [("IPv4", IcmpFamily::V4), ("IPv6", IcmpFamily::V6)];

// === impl L4 ===

impl L4 {
    fn protocols(self) -> &'static [Protocol] {
        match self {
            Self::Any => &[Protocol::Tcp, Protocol::Udp, Protocol::Sctp],
            Self::Of(Protocol::Tcp) => &[Protocol::Tcp],
            Self::Of(Protocol::Udp) => &[Protocol::Udp],
            Self::Of(Protocol::Sctp) => &[Protocol::Sctp],
            Self::Bare(_) => &[],
        }
    }

    fn range(self, first: u16, last: u16) -> Vec<PortMatch> {
        let range = |protocol: &Protocol| PortMatch::Range { protocol: *protocol, first, last };
        self.protocols().iter().map(range).collect()
    }
}

// === impl Reader ===

impl Reader<'_> {
    /// What `toPorts` and `icmps` say. Absent and empty lists say nothing; an entry without ports matches none.
    pub(super) fn cilium_ports(&mut self, rule: Fields<'_>, path: &Path<'_>) -> Ports {
        let ports = self.entries(rule, path, "toPorts", "ports", Self::cilium_port);
        let icmps = self.entries(rule, path, "icmps", "fields", Self::icmp);
        match (ports.is_empty(), icmps.is_empty()) {
            (true, true) => return Ports::Any,
            (false, false) => self.refuse(path, "icmps and toPorts together: give each a rule"),
            (true, false) | (false, true) => {}
        }
        let mut matches: Vec<PortMatch> = ports.into_iter().chain(icmps).flatten().collect();
        matches.sort();
        matches.dedup();
        Ports::Of(matches)
    }

    /// What the inner lists of the objects of a list say.
    fn entries(
        &mut self,
        rule: Fields<'_>,
        path: &Path<'_>,
        outer: &str,
        inner: &str,
        read: impl Fn(&mut Self, &Value, &Path<'_>) -> Vec<PortMatch>,
    ) -> Vec<Vec<PortMatch>> {
        self.each(rule, path, outer, |reader, entry, path| {
            let fields = reader.object(entry, path);
            let items = reader.each(fields, path, inner, &read);
            if items.len() > MOST {
                let path = path.field(inner);
                let reason = format!("{} are too many: at most {MOST}", items.len());
                reader.refuse_as(RefusalClass::Limit, &path, reason);
            }
            items.into_iter().flatten().collect()
        })
    }

    fn cilium_port(&mut self, value: &Value, path: &Path<'_>) -> Vec<PortMatch> {
        let fields = self.object(value, path);
        let protocol = match fields.get("protocol") {
            Some(value) => self.word(value, &path.field("protocol"), &PROTOCOLS),
            None => Some(L4::Any),
        };
        let end_at = path.field("endPort");
        let end = fields.get("endPort").and_then(|end| self.number(end, &end_at, 0..=u16::MAX));
        // 0 is the same as none.
        let end = end.filter(|end| *end > 0);
        let at = path.field("port");
        let text = match fields.get("port") {
            Some(value) => match self.text(value, &at) {
                Some(text) => text,
                None => return Vec::new(),
            },
            None => "",
        };
        if let Some(L4::Bare(number)) = protocol {
            if !["", "0"].contains(&text) || end.is_some() {
                self.refuse(&at, "the protocol has no ports");
            }
            return vec![PortMatch::Protocol(number)];
        }
        if text.is_empty() {
            if fields.is_object() {
                self.refuse(&at, "it is missing; \"0\" means all ports");
            }
            return Vec::new();
        }
        let port = CiliumPort::parse(text);
        let port = port.map_err(|reason| self.refuse(&at, format!("{}: {reason}", quoted(text))));
        let (Ok(port), Some(protocol)) = (port, protocol) else { return Vec::new() };
        let reason = match (&port, end) {
            (CiliumPort::Name(_), Some(_)) => Some("a range begins with a number".to_owned()),
            (CiliumPort::Number(0), Some(_)) => Some("port 0 means all: begin with 1".to_owned()),
            (CiliumPort::Number(first), Some(last)) if last < *first => {
                Some(format!("{last} is less than port, {first}"))
            }
            _ => None,
        };
        if let Some(reason) = reason {
            self.refuse(&end_at, reason);
        }
        match port {
            CiliumPort::Number(0) => protocol.range(0, u16::MAX),
            CiliumPort::Number(first) => protocol.range(first, end.unwrap_or(first)),
            CiliumPort::Name(name) => {
                let protocol = match protocol {
                    L4::Of(protocol) => Some(protocol),
                    L4::Any | L4::Bare(_) => None,
                };
                vec![PortMatch::Named { protocol, name }]
            }
        }
    }

    fn icmp(&mut self, value: &Value, path: &Path<'_>) -> Vec<PortMatch> {
        self.icmp_type(value, path).into_iter().collect()
    }

    fn icmp_type(&mut self, value: &Value, path: &Path<'_>) -> Option<PortMatch> {
        let fields = self.object(value, path);
        let family = match fields.get("family") {
            Some(value) => self.word(value, &path.field("family"), &FAMILIES),
            None => Some(IcmpFamily::V4),
        };
        let at = path.field("type");
        let value = self.required(fields, path, "type")?;
        let kind = match value {
            Value::String(text) => match CiliumPort::parse(text) {
                Ok(CiliumPort::Number(number)) => u8::try_from(number).ok(),
                _ => icmp_type(family?, text),
            },
            _ => {
                let number = self.number(value, &at, 0..=u8::MAX.into())?;
                u8::try_from(number).ok()
            }
        };
        if kind.is_none() {
            let shown = value.as_str().map(quoted).unwrap_or_default();
            let reason = "is neither 0 to 255 nor the name of a type of this family";
            self.refuse(&at, format!("{shown} {reason}"));
        }
        Some(PortMatch::Icmp { family: family?, kind: kind? })
    }
}
