//! What the programs cost a connect: the same destination directly, from a process without programs, and through a
//! service's address, from a process with them.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    thread,
    time::Instant,
};

use mesh_dataplane::{KernelMaps, PinRoot, Programs, Sizes, Tables};
use mesh_model::{
    ClusterId, ClusterLimit, Protocol,
    lb::{Backend, Change, Frontend, Group, Settings},
};
use serde::Serialize;

use crate::{
    client::{Client, Transport},
    error::{BenchError, io},
    place::Place,
};

/// How much is measured.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Numbers of services to measure with, ascending.
    pub services: Vec<u32>,
    /// How often the two take turns.
    pub rounds: u32,
    /// How many connects a turn has.
    pub batch: u32,
}

/// What a connect costs with a number of services.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectRow {
    /// `tcp` or `udp`.
    pub transport: &'static str,
    /// How many services there are, of ten backends each.
    pub services: u32,
    /// How many connects were made each way.
    pub connects: u64,
    /// CPU time of a connect to the destination itself, without programs.
    pub direct_nanos: f64,
    /// CPU time of a connect to a service's address.
    pub through_nanos: f64,
    /// Through the service, relative to directly.
    pub ratio: f64,
}

const BACKENDS: u8 = 10;
/// Those of an agent with its defaults.
const SIZES: Sizes =
    Sizes { services: 131_072, backends: 262_144, slots: 1_048_576, groups: 16_384 };

/// Measures. Needs root.
pub fn connect(
    options: &ConnectOptions,
    mut progress: impl FnMut(u64, u64),
) -> Result<Vec<ConnectRow>, BenchError> {
    let place = Place::new()?;
    let (mut programs, maps) = Programs::load(PinRoot::open(&place.pins)?, SIZES)?;
    let mut tables = Tables::restore(maps, Instant::now())?;
    programs.attach(&place.cgroup)?;
    // Before there are programs on it: only those started from here on are in the cgroup.
    let mut direct = Client::start(None)?;
    let mut through = Client::start(Some(&place.cgroup))?;
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, serve()?));
    let total = options.services.len() as u64 * Transport::ALL.len() as u64;
    let (mut rows, mut filled) = (Vec::new(), 0);
    for &services in &options.services {
        fill(&mut tables, filled..services, server)?;
        filled = services;
        for transport in Transport::ALL {
            progress(rows.len() as u64, total);
            let mut nanos = (0, 0);
            for round in 0..options.rounds {
                let service = frontend(round % services, transport);
                let to = SocketAddr::new(service.address, service.port);
                // One turn each, and who is first changes: the first of a pair finds colder caches.
                if round % 2 == 0 {
                    nanos.0 += direct.connect(transport, server, options.batch)?;
                    nanos.1 += through.connect(transport, to, options.batch)?;
                } else {
                    nanos.1 += through.connect(transport, to, options.batch)?;
                    nanos.0 += direct.connect(transport, server, options.batch)?;
                }
            }
            rows.push(row(transport, services, options, nanos));
        }
    }
    Ok(rows)
}

fn row(
    transport: Transport,
    services: u32,
    options: &ConnectOptions,
    (direct, through): (u64, u64),
) -> ConnectRow {
    let connects = u64::from(options.rounds) * u64::from(options.batch);
    let each = |nanos: u64| nanos as f64 / connects.max(1) as f64;
    ConnectRow {
        transport: transport.name(),
        services,
        connects,
        direct_nanos: each(direct),
        through_nanos: each(through),
        ratio: each(through) / each(direct),
    }
}

/// Services whose backends are all the one server: each of its loopback addresses is another backend.
fn fill(
    tables: &mut Tables<KernelMaps>,
    services: std::ops::Range<u32>,
    server: SocketAddr,
) -> Result<(), BenchError> {
    let cluster = ClusterId::new(1, ClusterLimit::Max255)
        .map_err(|error| BenchError::Unexpected(error.to_string()))?;
    for (service, transport) in services.flat_map(|n| Transport::ALL.map(|t| (n, t))) {
        let frontend = frontend(service, transport);
        tables.apply(Change::SetFrontend(frontend, Settings::default()), Instant::now())?;
        for last in 1..=BACKENDS {
            let address = IpAddr::from(Ipv4Addr::new(127, 0, 0, last));
            let protocol = frontend.protocol;
            let backend = Backend { address, port: server.port(), protocol, cluster };
            tables.apply(Change::AddBackend(frontend, backend, Group::FIRST), Instant::now())?;
        }
    }
    Ok(())
}

/// A cluster IP of 10.0.0.0/8.
fn frontend(service: u32, transport: Transport) -> Frontend {
    let address = Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + service);
    let protocol = match transport {
        Transport::Tcp => Protocol::Tcp,
        Transport::Udp => Protocol::Udp,
    };
    Frontend { address: address.into(), port: 80, protocol }
}

/// A TCP server and a UDP socket on the same port of every loopback address, for as long as the process lives.
fn serve() -> Result<u16, BenchError> {
    let listener = TcpListener::bind("0.0.0.0:0").map_err(io("a server"))?;
    let address = listener.local_addr().map_err(io("a server"))?;
    let udp = UdpSocket::bind(address).map_err(io("a server"))?;
    thread::spawn(move || {
        let _udp = udp;
        while listener.accept().is_ok() {}
    });
    Ok(address.port())
}
