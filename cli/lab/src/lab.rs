//! A lab: how it is started, used and removed.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use mesh_files::{BPF_FS, Lock, LockError, mount_bpf_fs};
use nix::{sys::signal::Signal, unistd::Uid};

use crate::{
    cluster::{self, Component},
    cni::Conflist,
    command::NETNS,
    contexts::{AgentSocket, Context, Contexts},
    error::LabError,
    host_setup,
    names::{self, ClusterNumber, LabName, NodeNumber},
    options::LabOptions,
    process::{Liveness, stop_all},
    state::{ClusterState, LabState, NodeState, ProcessState},
};

/// A phase of a lab's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Removing what an interrupted start left.
    Remains,
    /// Creating network namespaces and links.
    Machines,
    /// Creating cluster directories and certificates.
    Directories,
    /// Starting etcds, apiservers and agents.
    Daemons,
}

/// A lab that is up. It holds the lab's lock, so that only one command uses the lab at a time.
#[derive(Debug)]
pub struct Lab {
    pub(crate) name: LabName,
    pub(crate) state: LabState,
    _lock: Lock,
}

/// How long processes are observed after their start: those that cannot run end at once.
pub(crate) const WATCHED: Duration = Duration::from_millis(100);
/// The longest time to wait for another command's lock.
const LOCK: Duration = Duration::from_secs(60);

impl Lab {
    /// Starts a lab. If that fails, everything created is removed.
    pub fn up(options: &LabOptions, mut progress: impl FnMut(Phase)) -> Result<Self, LabError> {
        need_root()?;
        let name = LabName::new(&options.name)?;
        let _ = (names::clusters(options.clusters)?, names::nodes(options.nodes)?);
        if options.replicas == 0 || usize::from(options.replicas) > options.nodes {
            return Err(LabError::Replicas(options.replicas, options.nodes));
        }
        let lock = lock(&name)?;
        if LabState::load(&name.folder())?.is_some_and(|state| state.made) {
            return Err(LabError::AlreadyUp(options.name.clone()));
        }
        // What a crashed or interrupted start left.
        if is_there(&name)? {
            progress(Phase::Remains);
        }
        remove_everything(&name)?;
        let mut lab = Self { name, state: LabState::default(), _lock: lock };
        match lab.make(options, &mut progress) {
            Ok(()) => Ok(lab),
            Err(error) => {
                let _ = remove_everything(&lab.name);
                Err(error)
            }
        }
    }

    /// Opens a lab that is up, and locks it.
    pub fn open(name: &str) -> Result<Self, LabError> {
        need_root()?;
        let name = LabName::new(name)?;
        if !name.folder().join("lab.json").exists() {
            return Err(LabError::NotUp(name.as_str().into()));
        }
        let lock = lock(&name)?;
        match LabState::load(&name.folder())? {
            Some(state) => Ok(Self { name, state, _lock: lock }),
            None => Err(LabError::NotUp(name.as_str().into())),
        }
    }

    /// Removes a lab, or what is left of it. Returns whether there was anything.
    pub fn down(name: &str) -> Result<bool, LabError> {
        need_root()?;
        let name = LabName::new(name)?;
        let lock = lock(&name)?;
        let existed = is_there(&name)?;
        remove_everything(&name)?;
        let folder = name.folder();
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(LabError::io(&folder))?;
        }
        drop(lock);
        let lock_file = lock_path(&name);
        let _ = fs::remove_file(lock_file);
        // This fails if there are other labs.
        let _ = folder.parent().map(fs::remove_dir);
        Ok(existed)
    }

    /// Reads the state of a lab that is up, without its lock.
    pub fn peek(name: &str) -> Result<LabState, LabError> {
        let name = LabName::new(name)?;
        LabState::load(&name.folder())?.ok_or_else(|| LabError::NotUp(name.as_str().into()))
    }

    /// The names of all labs that are up.
    pub fn all() -> Vec<String> {
        let root = fs::read_dir("/run/clustermesh-lab").into_iter().flatten().flatten();
        let mut names: Vec<String> = root
            .filter(|entry| entry.path().join("lab.json").exists())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// The state of the lab.
    pub fn state(&self) -> &LabState {
        &self.state
    }

    /// The path of the file with the lab's contexts.
    pub fn contexts_file(&self) -> PathBuf {
        self.name.folder().join("contexts.yaml")
    }

    /// Stops processes side by side: a cluster's component, everything of a kind, everything. Returns their names. `waiting`
    /// gets the names of those that still run, in the lab's order.
    pub fn stop(
        &mut self,
        processes: &[String],
        signal: Signal,
        waiting: &mut dyn FnMut(&[&str]),
    ) -> Result<Vec<String>, LabError> {
        let names = self.matching(processes)?;
        let mut stopped: Vec<&mut ProcessState> =
            self.processes_mut().filter(|process| names.contains(&process.name)).collect();
        stop_all(&mut stopped, signal, waiting);
        self.save()?;
        Ok(names)
    }

    /// Starts those of the matching processes that do not run. Returns their names.
    pub fn start(&mut self, processes: &[String]) -> Result<Vec<String>, LabError> {
        let mut started = Vec::new();
        for name in self.matching(processes)? {
            if let Some(process) = self.process_mut(&name)
                && process.liveness() != Liveness::Running
            {
                process.start()?;
                started.push(name);
            }
            self.save()?;
        }
        Ok(started)
    }

    /// Sets environment variables of the matching processes, from their next start on.
    pub fn set_environment(
        &mut self,
        processes: &[String],
        variables: &[(String, String)],
    ) -> Result<(), LabError> {
        for name in self.matching(processes)? {
            let Some(process) = self.process_mut(&name) else { continue };
            for (variable, value) in variables {
                process.environment.retain(|(other, _)| other != variable);
                process.environment.push((variable.clone(), value.clone()));
            }
        }
        self.save()
    }

    /// All processes of the lab: daemons, and those of pods.
    pub fn processes(&self) -> impl Iterator<Item = &ProcessState> {
        self.state.all_processes()
    }

    /// The process of a cluster's component.
    pub fn component(&self, cluster: &str, component: &Component) -> Option<&ProcessState> {
        let name = component.process(cluster);
        self.state.processes.iter().find(|process| process.name == name)
    }

    /// The names of the processes that words match: a process by its full name, all of a cluster by `a/`, all of a kind,
    /// with all replicas, by `etcd`, `apiserver` or `agent`, and a kind in a cluster by `a/agent`.
    pub fn matching(&self, words: &[String]) -> Result<Vec<String>, LabError> {
        let mut found = BTreeSet::new();
        for word in words {
            let matches = |name: &&str| {
                let parts: Vec<&str> = name.split('/').collect();
                let (first, last) = (parts.first().copied(), parts.last().copied());
                // The names of the control plane's processes may end in the replica's number. So may pods' names, which are
                // not changed.
                let kind = last.map(|last| last.trim_end_matches(|c: char| c.is_ascii_digit()));
                let kind = if parts.len() == 2 { kind } else { last };
                let in_cluster = |cluster: &str| first == Some(cluster);
                *name == word
                    || kind == Some(word.as_str())
                    || word.strip_suffix('/').is_some_and(in_cluster)
                    || word
                        .split_once('/')
                        .is_some_and(|(cluster, kind)| in_cluster(cluster) && last == Some(kind))
            };
            let names: Vec<&str> = self.processes().map(|process| process.name.as_str()).collect();
            let named: Vec<&str> = names.iter().copied().filter(matches).collect();
            if named.is_empty() {
                return Err(LabError::Unknown {
                    kind: "process",
                    name: word.clone(),
                    known: names.join(", "),
                });
            }
            found.extend(named);
        }
        let names = self.processes().map(|process| process.name.clone());
        Ok(names.filter(|name| found.contains(name.as_str())).collect())
    }

    pub(crate) fn save(&self) -> Result<(), LabError> {
        self.state.save(&self.name.folder())
    }

    pub(crate) fn number(&self, cluster: &str) -> Result<ClusterNumber, LabError> {
        let id = self.state.cluster(cluster)?.id;
        let numbers = names::clusters(id.into())?;
        numbers.last().copied().ok_or(LabError::Size)
    }

    fn processes_mut(&mut self) -> impl Iterator<Item = &mut ProcessState> {
        let pods = self.state.clusters.iter_mut().flat_map(|cluster| &mut cluster.pods);
        let pods = pods.filter_map(|pod| pod.process.as_mut());
        self.state.processes.iter_mut().chain(pods)
    }

    fn process_mut(&mut self, name: &str) -> Option<&mut ProcessState> {
        self.processes_mut().find(|process| process.name == name)
    }

    fn make(
        &mut self,
        options: &LabOptions,
        progress: &mut impl FnMut(Phase),
    ) -> Result<(), LabError> {
        let cgroup2 = host_setup::cgroup2()?;
        let folder = self.name.folder();
        for part in ["logs", "nodes"] {
            host_setup::make_folder(&folder.join(part))?;
        }
        // Agents create their pin folders below this one.
        mount_bpf_fs().map_err(LabError::io(BPF_FS))?;
        host_setup::make_folder(&self.name.pins())?;
        self.state.name = options.name.clone();
        self.state.bin_dir = options.bin_dir.clone();
        let numbers = names::clusters(options.clusters)?;
        for number in &numbers {
            let plan =
                cluster::plan(&self.name, *number, options.nodes, options.replicas, &cgroup2);
            self.state.clusters.push(plan?);
        }
        progress(Phase::Machines);
        host_setup::make_underlay(&self.name)?;
        for (cluster, number) in self.state.clusters.iter().zip(&numbers) {
            for (node, at) in cluster.nodes.iter().zip(names::nodes(options.nodes)?) {
                host_setup::make_node(&self.name, cluster, *number, node, at)?;
                make_cni(*number, node, at)?;
            }
        }
        progress(Phase::Directories);
        for (cluster, number) in self.state.clusters.iter().zip(&numbers) {
            cluster::make_directory(cluster, *number)?;
            let processes = cluster::processes(&self.name, cluster, *number, options);
            self.state.processes.extend(processes);
        }
        self.write_contexts()?;
        self.save()?;
        progress(Phase::Daemons);
        for process in &mut self.state.processes {
            process.start()?;
        }
        self.save()?;
        thread::sleep(WATCHED);
        match self.state.processes.iter().find(|process| process.liveness() != Liveness::Running) {
            Some(dead) => Err(LabError::Died { name: dead.name.clone(), log: dead.last_words() }),
            None => {
                self.state.made = true;
                self.save()
            }
        }
    }

    fn write_contexts(&self) -> Result<(), LabError> {
        let context = |cluster: &ClusterState| Context {
            name: cluster.name.clone(),
            directory: cluster.directory.clone(),
            apiserver: cluster::apiserver_socket(cluster, 1),
            replicas: (2..=cluster.replicas)
                .map(|replica| cluster::apiserver_socket(cluster, replica))
                .collect(),
            agents: cluster
                .nodes
                .iter()
                .map(|node| AgentSocket {
                    node: node.name.clone(),
                    socket: node.admin_socket.clone(),
                })
                .collect(),
            netns: cluster.nodes.first().map(|node| node.netns.clone()),
        };
        let contexts = Contexts { contexts: self.state.clusters.iter().map(context).collect() };
        let path = self.contexts_file();
        contexts.write(&path).map_err(LabError::io(path))
    }
}

/// Writes the chain of CNI plugins of a node.
fn make_cni(number: ClusterNumber, node: &NodeState, at: NodeNumber) -> Result<(), LabError> {
    let ipam = node.ipam();
    fs::create_dir_all(&ipam).map_err(LabError::io(&ipam))?;
    let ranges = number.node_pod_cidrs(at);
    let chain = Conflist::for_node(&ranges, &ipam, &node.admin_socket, &node.pods_dir())?;
    chain.write(&node.conflist())
}

/// Whether anything of a lab exists: its state, its tables, its processes' cgroup, or its network namespaces.
fn is_there(name: &LabName) -> Result<bool, LabError> {
    let cgroup = name.cgroup(&host_setup::cgroup2()?);
    let folders = [name.folder(), name.pins(), cgroup];
    let mut netns = fs::read_dir(NETNS).into_iter().flatten().flatten();
    let prefix = name.netns_prefix();
    let is_ours = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with(&prefix);
    Ok(folders.iter().any(|folder| folder.exists()) || netns.any(is_ours))
}

/// Fails unless the process is root. Commands call this before anything else.
pub fn need_root() -> Result<(), LabError> {
    if Uid::effective().is_root() { Ok(()) } else { Err(LabError::NotRoot) }
}

/// Beside the lab's folder, which is created and removed while the lock is held.
fn lock_path(name: &LabName) -> PathBuf {
    name.folder().with_extension("lock")
}

fn lock(name: &LabName) -> Result<Lock, LabError> {
    let path = lock_path(name);
    let folder = path.parent().unwrap_or(Path::new("/"));
    loop {
        host_setup::make_folder(folder)?;
        match Lock::wait(&path, LOCK) {
            // Another lab has just removed the shared folder.
            Err(LockError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            result => return Ok(result?),
        }
    }
}

/// Removes everything with the lab's name, whether the state has it or not: processes first, by their common cgroup, then
/// network namespaces, pins, and the daemons' folders.
fn remove_everything(name: &LabName) -> Result<(), LabError> {
    host_setup::remove_cgroup(&name.cgroup(&host_setup::cgroup2()?))?;
    let names = fs::read_dir(NETNS).into_iter().flatten().flatten();
    let prefix = name.netns_prefix();
    for netns in names.filter_map(|entry| entry.file_name().into_string().ok()) {
        if netns.starts_with(&prefix) {
            host_setup::remove_netns(&netns)?;
        }
    }
    for folder in [name.pins(), name.folder()] {
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(LabError::io(&folder))?;
        }
    }
    // The parent folders are removed if no other lab uses them.
    let _ = name.pins().parent().map(fs::remove_dir);
    let _ = name.cgroup(&host_setup::cgroup2()?).parent().map(fs::remove_dir);
    Ok(())
}
