//! Conversions between the model and the tables' bytes.

use std::net::{IpAddr, Ipv6Addr};

use mesh_layout::{FrontendKey, address_bytes};
use mesh_model::{
    Protocol,
    cluster::ClusterId,
    lb::{Backend, Frontend, Settings},
};

/// The IP protocol number of each protocol.
fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn protocol(number: u8) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|p| protocol_number(*p) == number)
}

fn address(bytes: [u8; 16]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
}

pub(crate) fn frontend_key(frontend: &Frontend) -> FrontendKey {
    FrontendKey::new(
        address_bytes(frontend.address),
        frontend.port.to_be_bytes(),
        protocol_number(frontend.protocol),
    )
}

/// `None` for a protocol that nothing of ours wrote.
pub(crate) fn frontend(key: &FrontendKey) -> Option<Frontend> {
    Some(Frontend {
        address: address(key.address()),
        port: u16::from_be_bytes(key.port()),
        protocol: protocol(key.protocol())?,
    })
}

pub(crate) fn backend_entry(id: u32, backend: &Backend) -> mesh_layout::Backend {
    mesh_layout::Backend::new(
        id,
        backend.cluster.get(),
        address_bytes(backend.address),
        backend.port.to_be_bytes(),
        protocol_number(backend.protocol),
    )
}

/// `None` for an entry that nothing of ours wrote.
pub(crate) fn backend(entry: &mesh_layout::Backend) -> Option<Backend> {
    Some(Backend {
        address: address(entry.address()),
        port: u16::from_be_bytes(entry.port()),
        protocol: protocol(entry.protocol())?,
        cluster: ClusterId::from_wire(entry.cluster().into())?,
    })
}

pub(crate) fn settings(settings: Settings) -> mesh_layout::Settings {
    let Settings { session_affinity, plain, pass_if_empty } = settings;
    mesh_layout::Settings::new(session_affinity, plain, pass_if_empty)
}

pub(crate) fn settings_of(settings: mesh_layout::Settings) -> Settings {
    Settings {
        session_affinity: settings.session_affinity_seconds(),
        plain: settings.is_plain(),
        pass_if_empty: settings.passes_if_empty(),
    }
}
