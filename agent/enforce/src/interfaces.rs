//! Finds the interfaces of pods under policy, and attaches the programs there: in a thread of its own, since that takes tens
//! of milliseconds a pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use mesh_files::{in_netns, interfaces, veth_peer};
use mesh_pods::AttachmentKey;
use mesh_policy_kernel::Hooks;

/// A pod under policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its container and interface.
    pub key: AttachmentKey,
    /// Its network namespace.
    pub netns: PathBuf,
    /// Its number in the tables.
    pub endpoint: u32,
}

/// The thread, and what it found.
#[derive(Debug)]
pub struct Interfaces {
    wanted: mpsc::Sender<Vec<Wanted>>,
    sent: Option<Vec<Wanted>>,
    report: Arc<Mutex<Report>>,
}

/// What the thread says.
#[derive(Debug, Default)]
struct Report {
    attached: usize,
    /// Pods at whose interface nothing is attached, and why.
    failed: BTreeMap<AttachmentKey, String>,
    /// The node's addresses, once they were read.
    host: Option<Vec<IpAddr>>,
}

/// How often the node's addresses are read, and what failed is tried again.
const EVERY: Duration = Duration::from_secs(1);

// === impl Interfaces ===

impl Interfaces {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system has no thread more.
    pub fn start(hooks: Hooks) -> io::Result<Self> {
        let (wanted, receiver) = mpsc::channel();
        let report = Arc::new(Mutex::new(Report::default()));
        let shared = Arc::clone(&report);
        thread::Builder::new()
            .name("policy".into())
            .spawn(move || Task::new(hooks, shared).run(&receiver))?;
        Ok(Self { wanted, sent: None, report })
    }

    /// From now on these pods are judged, and no others.
    pub fn want(&mut self, wanted: Vec<Wanted>) {
        if self.sent.as_ref() != Some(&wanted) {
            let _ = self.wanted.send(wanted.clone());
            self.sent = Some(wanted);
        }
    }

    /// The node's addresses, once they were read.
    pub fn host(&self) -> Option<Vec<IpAddr>> {
        lock(&self.report).host.clone()
    }

    /// How many pods under policy are not judged, and why the first is not.
    pub fn problem(&self) -> Option<String> {
        let report = lock(&self.report);
        let (key, why) = report.failed.first_key_value()?;
        let count = report.failed.len();
        Some(format!("pods under policy that are not judged: {count}, first {key}: {why}"))
    }
}

fn lock(report: &Mutex<Report>) -> MutexGuard<'_, Report> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Task {
    hooks: Hooks,
    report: Arc<Mutex<Report>>,
    /// The interfaces of pods, once they were found.
    found: BTreeMap<AttachmentKey, (PathBuf, u32)>,
}

// === impl Task ===

impl Task {
    fn new(hooks: Hooks, report: Arc<Mutex<Report>>) -> Self {
        Self { hooks, report, found: BTreeMap::new() }
    }

    fn run(mut self, receiver: &mpsc::Receiver<Vec<Wanted>>) {
        // Until it is known what is wanted, what an earlier run attached stays.
        let mut wanted: Option<Vec<Wanted>> = None;
        loop {
            self.read_host();
            match receiver.recv_timeout(EVERY) {
                Ok(next) => wanted = Some(receiver.try_iter().last().unwrap_or(next)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if let Some(wanted) = &wanted {
                self.attach(wanted);
            }
        }
    }

    fn read_host(&self) {
        match interfaces() {
            Ok(found) => {
                let addresses: BTreeSet<IpAddr> =
                    found.into_iter().filter_map(|(_, address)| address).collect();
                lock(&self.report).host = Some(addresses.into_iter().collect());
            }
            Err(error) => tracing::warn!(%error, "the node's addresses cannot be read"),
        }
    }

    fn attach(&mut self, wanted: &[Wanted]) {
        self.found.retain(|key, (netns, _)| {
            wanted.iter().any(|one| one.key == *key && one.netns == *netns)
        });
        let mut failed = BTreeMap::new();
        let mut meant = BTreeSet::new();
        for Wanted { key, netns, endpoint } in wanted {
            let attached = self.find(key, netns).and_then(|interface| {
                meant.insert(interface);
                self.hooks.attach(interface, *endpoint).map_err(|error| error.to_string())
            });
            if let Err(why) = attached {
                // Another one may have its index now.
                self.found.remove(key);
                failed.insert(key.clone(), why);
            }
        }
        let others: Vec<u32> =
            self.hooks.interfaces().filter(|interface| !meant.contains(interface)).collect();
        for interface in others {
            if let Err(error) = self.hooks.detach(interface) {
                tracing::warn!(%error, interface, "an interface stays judged");
            }
        }
        let attached = self.hooks.interfaces().count();
        let mut report = lock(&self.report);
        if report.attached != attached {
            tracing::info!(attached, "pods under policy are judged");
        }
        (report.attached, report.failed) = (attached, failed);
    }

    fn find(&mut self, key: &AttachmentKey, netns: &Path) -> Result<u32, String> {
        if let Some((_, interface)) = self.found.get(key) {
            return Ok(*interface);
        }
        let peer = in_netns(netns, || veth_peer(key.interface()));
        let peer = peer.map_err(|error| error.to_string())?;
        let interface = peer.ok_or("its interface has no other end on the node (no veth)")?;
        self.found.insert(key.clone(), (netns.to_owned(), interface));
        Ok(interface)
    }
}
