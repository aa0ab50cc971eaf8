//! Figures of a mesh on kind clusters: how long a change of a pod takes to the kernel of another cluster's node, what the
//! daemons use meanwhile, and what they ask of the API server.
//!
//! The pods are real objects on a node without a kubelet, so that no kubelet adds its time: this program reports their
//! readiness in its place. All else is real: API server, controller of endpoint slices, daemons and kernels.

mod api_server;
mod objects;
mod propagation;
mod requests;
mod usage;
mod watches;

use std::{thread, time::Duration};

use serde::Serialize;

use self::{api_server::ApiServer, objects::Objects, requests::Requests, watches::Watches};
pub use self::{
    propagation::{Percentiles, Propagation},
    requests::Phase,
    usage::{Component, Usage},
};
use crate::{
    Kind, Mesh,
    mesh::{Daemon, connect, within},
};

/// The parameters.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Pods that become ready one after another, and as many that become not ready.
    pub samples: u32,
    /// The seconds of the phase without changes.
    pub idle: u32,
    /// The seconds of the phase with many changes.
    pub busy: u32,
    /// Changes of pods a second in that phase.
    pub rate: u32,
    /// Pods of the service: at most 100, as many as a slice has.
    pub pods: u32,
}

/// The tables, named as `clustermesh bench report` reads them.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    kind: &'static str,
    /// From a pod's readiness to the kernel.
    pub kind_propagation: Vec<Propagation>,
    /// What changed in each phase, and what was asked of the API server.
    pub kind_phases: Vec<Phase>,
    /// What each daemon uses.
    pub kind_components: Vec<Component>,
}

/// Where pods change, and where they are backends.
const FROM: &str = "a";
const TO: &str = "b";
/// How long one change may take to arrive.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long all pods may take at the start.
const STARTING: Duration = Duration::from_secs(60);
/// Between the phases, so that what one caused is over.
const PAUSE: Duration = Duration::from_secs(3);
/// The interval of looks at connections.
const LOOK: Duration = Duration::from_secs(1);

/// Measures everything on the clusters a and b. `build` is the profile of the daemons' build. Removes what it made.
pub fn measure(mesh: &Kind, build: &str, options: Options) -> Figures {
    connect(mesh, FROM, TO);
    let daemons = daemons(mesh);
    let objects = Objects::make(mesh, options.pods);
    let api_server = ApiServer::open(mesh, FROM);
    api_server.start_pods(options.pods);
    let node = mesh.nodes(TO).into_iter().next().expect("a node");
    let kernel = Kernel::open(mesh, &node, &objects);
    within(STARTING, "all pods are backends in the other cluster", || kernel.has(options.pods));
    let watches = Watches::start(mesh, &api_server);
    watches.wait_until_seen(&api_server, &kernel, options.pods);
    let requests = Requests::start(mesh, &daemons);
    let mut phases = Vec::new();

    watches.drain();
    let before = requests.count();
    let kind_propagation = propagation::measure(&api_server, &kernel, &watches, build, options);
    // The watches' events were read one by one.
    let changes = u64::from(2 * options.samples);
    phases.push(requests.since(&before, "one change at a time", changes, (changes, changes)));

    thread::sleep(PAUSE);
    let mut components: Vec<Component> = daemons.iter().map(Component::new).collect();
    for busy in [false, true] {
        watches.drain();
        let (name, seconds) =
            if busy { ("many changes", options.busy) } else { ("idle", options.idle) };
        let time = Duration::from_secs(seconds.into());
        let mut before = requests.count();
        let used: Vec<_> = daemons.iter().map(|(_, pid)| usage::cpu(*pid)).collect();
        let changing = busy.then(|| api_server.change(options.pods, options.rate, time));
        while before.began().elapsed() < time {
            before.look_at_connections(&requests);
            thread::sleep(LOOK.min(time.saturating_sub(before.began().elapsed())));
        }
        let passed = before.began().elapsed();
        for ((component, (_, pid)), used) in components.iter_mut().zip(&daemons).zip(used) {
            let usage = Usage::since(*pid, used, passed);
            *if busy { &mut component.busy } else { &mut component.idle } = usage;
        }
        let changes = changing.map_or(0, |changing| api_server.done(changing));
        phases.push(requests.since(&before, name, changes, watches.drain()));
        if busy {
            let same = || kernel.has(options.pods);
            api_server.set_all_ready(options.pods);
            within(PATIENCE, "all pods are backends again", same);
        }
    }
    drop(objects);
    Figures { kind: "Bench", kind_propagation, kind_phases: phases, kind_components: components }
}

/// The daemons of both clusters with their processes.
fn daemons(mesh: &Kind) -> Vec<(Daemon, i32)> {
    let all = crate::mesh::daemons(mesh).into_iter();
    all.map(|daemon| {
        let pid = mesh.daemon(&daemon).unwrap_or_else(|| panic!("{daemon} does not run"));
        (daemon, pid)
    })
    .collect()
}

/// A service in a node's kernel.
struct Kernel {
    tables: mesh_dump::Dump,
    frontend: (std::net::SocketAddr, u8),
}

// === impl Kernel ===

impl Kernel {
    fn open(mesh: &Kind, node: &str, objects: &Objects) -> Self {
        let tables = mesh_dump::Dump::open(&mesh.pins(TO, node));
        Self { tables: tables.expect("the tables"), frontend: objects.frontend(mesh) }
    }

    /// A counter of the backends, which reads mapped memory.
    fn backends(&self) -> Option<impl Fn() -> u32> {
        self.tables.counter(self.frontend).expect("the tables")
    }

    fn has(&self, pods: u32) -> Result<(), String> {
        let found = self.backends().map(|backends| backends());
        if found == Some(pods) { Ok(()) } else { Err(format!("{found:?}, not {pods}")) }
    }
}
