//! The CPU time of a connect to a service, by the mesh's programs or by kube-proxy's rules, beside a connect to the backend
//! itself.

use std::{
    net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use mesh_dataplane::{KernelMaps, PinRoot, Programs, Sizes, Tables};
use mesh_model::{
    ClusterId, ClusterLimit, Protocol,
    lb::{Backend, Change, Frontend, Group, Settings},
};
use serde::Serialize;

use crate::{
    backends::{EACH, FIRST, backends},
    client::Transport,
    datapaths::{Datapath, Rules, serve_here},
    error::{BenchError, io},
    rules::cluster_ip,
    sandbox::Sandbox,
    stats::median,
};

/// The parameters of the benchmark.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// The numbers of services to measure with, ascending.
    pub services: Vec<u32>,
    /// With more services than this, kube-proxy's rules are left out: they take minutes to load.
    pub rules_up_to: u32,
    /// How often the datapaths take turns.
    pub rounds: u32,
    /// Connects in a turn.
    pub batch: u32,
}

/// The cost of a connect with a number of services.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectRow {
    /// `socket` for the mesh's programs, `nftables` or `iptables` for kube-proxy's rules.
    pub way: &'static str,
    /// `tcp` or `udp`.
    pub transport: &'static str,
    /// The number of services. Each has two backends that no other service has.
    pub services: u32,
    /// Connects made on each path.
    pub connects: u64,
    /// CPU time of a connect to the destination itself, in nanoseconds: the median of the rounds.
    pub direct_nanos: f64,
    /// CPU time of a connect to a service's address, in nanoseconds: the median of the rounds.
    pub through_nanos: f64,
    /// The ratio of the connect through the service to the direct one: the median of the rounds' ratios.
    pub ratio: f64,
    /// The time to add one more service, in microseconds: the median of a few.
    pub one_more_micros: f64,
}

/// A datapath to measure.
struct Runner {
    name: &'static str,
    way: Datapath,
    rules: Option<Rules>,
    one_more: f64,
}

/// Room for 100,000 services of TCP and of UDP, each with its backends.
const SIZES: Sizes =
    Sizes { services: 262_144, backends: 524_288, slots: 1_048_576, groups: 16_384 };
/// How often the addition of one more service is measured.
const MORE: u32 = 5;

/// Runs the benchmark. Needs root, nft and iptables-nft.
pub fn connect(
    options: &ConnectOptions,
    mut progress: impl FnMut(u64, u64),
) -> Result<Vec<ConnectRow>, BenchError> {
    let sandbox = Sandbox::new()?;
    serve_here()?;
    let (mut programs, maps) = Programs::load(PinRoot::open(&sandbox.pins)?, SIZES)?;
    let mut tables = Tables::restore(maps, Instant::now())?;
    programs.attach(&sandbox.cgroup)?;
    let mut direct = Datapath::new(&sandbox, 1, false)?;
    let runner = |name, number, rules: Option<Rules>| -> Result<Runner, BenchError> {
        let way = Datapath::new(&sandbox, number, rules.is_none())?;
        Ok(Runner { name, way, rules, one_more: 0.0 })
    };
    let mut runners = vec![
        runner("socket", 2, None)?,
        runner("nftables", 3, Some(Rules::Nftables))?,
        runner("iptables", 4, Some(Rules::Iptables))?,
    ];
    let port = serve()?;
    let total = options.services.len() as u64 * Transport::ALL.len() as u64;
    let (mut rows, mut filled, mut done) = (Vec::new(), 0, 0);
    for &services in &options.services {
        fill(&mut tables, filled..services, port)?;
        filled = services;
        runners.retain(|runner| runner.rules.is_none() || services <= options.rules_up_to);
        for runner in &mut runners {
            runner.one_more = runner.learn(&mut tables, services, port)?;
        }
        for transport in Transport::ALL {
            progress(done, total);
            done += 1;
            rows.extend(measure(&mut direct, &mut runners, transport, services, options, port)?);
        }
    }
    Ok(rows)
}

/// Measures all datapaths in turns. The first one changes from round to round, since it finds colder caches.
fn measure(
    direct: &mut Datapath,
    runners: &mut [Runner],
    transport: Transport,
    services: u32,
    options: &ConnectOptions,
    port: u16,
) -> Result<Vec<ConnectRow>, BenchError> {
    let batch = options.batch;
    // The rules are for TCP only.
    let mut runners: Vec<&mut Runner> = runners
        .iter_mut()
        .filter(|runner| runner.rules.is_none() || transport == Transport::Tcp)
        .collect();
    let mut taken: Vec<Vec<(f64, f64)>> = vec![Vec::new(); runners.len()];
    let each = |nanos: u64| nanos as f64 / f64::from(batch.max(1));
    for round in 0..options.rounds as usize {
        let places = runners.len() + 1;
        let mut turns = vec![0.0; places];
        for turn in 0..places {
            let at = (turn + round) % places;
            let nanos = match runners.get_mut(at) {
                Some(runner) => {
                    let (to, span) = runner.destinations(services);
                    runner.way.client.connect(transport, to, span, batch)?
                }
                None => {
                    // As many addresses as all services have backends.
                    let to = SocketAddrV4::new(FIRST, port);
                    direct.client.connect(transport, to, services * EACH, batch)?
                }
            };
            if let Some(turn) = turns.get_mut(at) {
                *turn = each(nanos);
            }
        }
        let alone = turns.pop().unwrap_or_default();
        taken.iter_mut().zip(turns).for_each(|(all, through)| all.push((alone, through)));
    }
    let row = |(runner, rounds): (&mut Runner, Vec<(f64, f64)>)| {
        let of = |value: fn(&(f64, f64)) -> f64| median(rounds.iter().map(value).collect());
        ConnectRow {
            way: runner.name,
            transport: transport.name(),
            services,
            connects: u64::from(options.rounds) * u64::from(batch),
            direct_nanos: of(|(direct, _)| *direct),
            through_nanos: of(|(_, through)| *through),
            ratio: of(|(direct, through)| through / direct),
            one_more_micros: runner.one_more,
        }
    };
    Ok(runners.into_iter().zip(taken).map(row).collect())
}

impl Runner {
    /// Adds services, and returns the time in microseconds to add one more, which is removed again.
    fn learn(
        &self,
        tables: &mut Tables<KernelMaps>,
        services: u32,
        port: u16,
    ) -> Result<f64, BenchError> {
        let micros = |taken: Duration| taken.as_secs_f64() * 1e6;
        let mut all = Vec::new();
        if let Some(rules) = self.rules {
            self.way.load(rules, services, port)?;
        }
        for more in services..services + MORE {
            all.push(match self.rules {
                Some(rules) => micros(self.way.add(rules, more, port)?),
                None => {
                    let begin = Instant::now();
                    add(tables, more, Transport::Tcp, port)?;
                    let taken = micros(begin.elapsed());
                    let gone = Change::RemoveFrontend(frontend(more, Transport::Tcp));
                    tables.apply(gone, Instant::now())?;
                    taken
                }
            });
        }
        Ok(median(all))
    }

    /// The destinations. The middle of iptables' list of rules has the average cost. Elsewhere all services are alike, and
    /// many destinations are what makes caches cold.
    fn destinations(&self, services: u32) -> (SocketAddrV4, u32) {
        match self.rules {
            Some(Rules::Iptables) => (SocketAddrV4::new(cluster_ip(services / 2), 80), 1),
            Some(Rules::Nftables) | None => (SocketAddrV4::new(cluster_ip(0), 80), services),
        }
    }
}

/// Adds services with their backends to the tables.
pub(crate) fn fill(
    tables: &mut Tables<KernelMaps>,
    services: std::ops::Range<u32>,
    port: u16,
) -> Result<(), BenchError> {
    for (service, transport) in services.flat_map(|n| Transport::ALL.map(|t| (n, t))) {
        add(tables, service, transport, port)?;
    }
    Ok(())
}

/// Adds one service to the tables.
pub(crate) fn add(
    tables: &mut Tables<KernelMaps>,
    service: u32,
    transport: Transport,
    port: u16,
) -> Result<(), BenchError> {
    let cluster = ClusterId::new(1, ClusterLimit::Max255)
        .map_err(|error| BenchError::Unexpected(error.to_string()))?;
    let frontend = frontend(service, transport);
    tables.apply(Change::SetFrontend(frontend, Settings::default()), Instant::now())?;
    for address in backends(service) {
        let protocol = frontend.protocol;
        let backend = Backend { address: address.into(), port, protocol, cluster };
        tables.apply(Change::AddBackend(frontend, backend, Group::FIRST), Instant::now())?;
    }
    tables.commit(Instant::now());
    Ok(())
}

/// The frontend of a service.
pub(crate) fn frontend(service: u32, transport: Transport) -> Frontend {
    let protocol = match transport {
        Transport::Tcp => Protocol::Tcp,
        Transport::Udp => Protocol::Udp,
    };
    Frontend { address: cluster_ip(service).into(), port: 80, protocol }
}

/// Starts a TCP server and a UDP socket on the same port of all addresses, until the process ends.
fn serve() -> Result<u16, BenchError> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(io("a server"))?;
    let address = listener.local_addr().map_err(io("a server"))?;
    let udp = UdpSocket::bind(address).map_err(io("a server"))?;
    thread::spawn(move || {
        let _udp = udp;
        while listener.accept().is_ok() {}
    });
    Ok(address.port())
}
