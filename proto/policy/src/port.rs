//! Ports by number and name, and ICMP types.

use mesh_model::{Protocol, names};

use crate::rule::IcmpFamily;

/// The protocols that have ports.
pub(crate) const PROTOCOLS: [(&str, Protocol); 3] =
    [("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp)];

/// A port as Cilium writes it: a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CiliumPort {
    Number(u16),
    Name(String),
}

// === impl CiliumPort ===

impl CiliumPort {
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            // Cilium would read them as octal.
            if text.len() > 1 && text.starts_with('0') {
                return Err("a port has no leading zeros");
            }
            let number = text.parse().map_err(|_| "it is not one of 0 to 65535")?;
            return Ok(Self::Number(number));
        }
        // Case is of no importance in names.
        let name = text.to_ascii_lowercase();
        names::port(&name)?;
        Ok(Self::Name(name))
    }
}

/// The ICMP type of a name, as in Cilium's schema.
pub fn icmp_type(family: IcmpFamily, name: &str) -> Option<u8> {
    let types: &[(&str, u8)] = match family {
        IcmpFamily::V4 => &V4_TYPES,
        IcmpFamily::V6 => &V6_TYPES,
    };
    types.iter().find(|(one, _)| *one == name).map(|(_, kind)| *kind)
}

const V4_TYPES: [(&str, u8); 16] = [
    ("EchoReply", 0),
    ("DestinationUnreachable", 3),
    ("Redirect", 5),
    ("Echo", 8),
    ("EchoRequest", 8),
    ("RouterAdvertisement", 9),
    ("RouterSelection", 10),
    ("TimeExceeded", 11),
    ("ParameterProblem", 12),
    ("Timestamp", 13),
    ("TimestampReply", 14),
    ("Photuris", 40),
    // The schema has these with a space, too.
    ("ExtendedEchoRequest", 42),
    ("ExtendedEcho Request", 42),
    ("ExtendedEchoReply", 43),
    ("ExtendedEcho Reply", 43),
];

const V6_TYPES: [(&str, u8); 27] = [
    ("DestinationUnreachable", 1),
    ("PacketTooBig", 2),
    ("TimeExceeded", 3),
    ("ParameterProblem", 4),
    ("EchoRequest", 128),
    ("EchoReply", 129),
    ("MulticastListenerQuery", 130),
    ("MulticastListenerReport", 131),
    ("MulticastListenerDone", 132),
    ("RouterSolicitation", 133),
    ("RouterAdvertisement", 134),
    ("NeighborSolicitation", 135),
    ("NeighborAdvertisement", 136),
    ("RedirectMessage", 137),
    ("RouterRenumbering", 138),
    ("ICMPNodeInformationQuery", 139),
    ("ICMPNodeInformationResponse", 140),
    ("InverseNeighborDiscoverySolicitation", 141),
    ("InverseNeighborDiscoveryAdvertisement", 142),
    ("HomeAgentAddressDiscoveryRequest", 144),
    ("HomeAgentAddressDiscoveryReply", 145),
    ("MobilePrefixSolicitation", 146),
    ("MobilePrefixAdvertisement", 147),
    ("DuplicateAddressRequestCodeSuffix", 157),
    ("DuplicateAddressConfirmationCodeSuffix", 158),
    ("ExtendedEchoRequest", 160),
    ("ExtendedEchoReply", 161),
];
