//! The lab: made, used and taken away.

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

/// What is being done, for those who wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// What is left of a lab that was made by halves: it goes.
    Remains,
    /// Namespaces and links.
    Machines,
    /// Cluster directories and certificates.
    Directories,
    /// etcd, apiserver, agents.
    Daemons,
}

/// A lab that is up. Holds its lock: one command at a time.
#[derive(Debug)]
pub struct Lab {
    pub(crate) name: LabName,
    pub(crate) state: LabState,
    _lock: Lock,
}

/// How long a daemon is watched after its start: one that cannot run ends at once.
pub(crate) const WATCHED: Duration = Duration::from_millis(100);
/// How long another command's lock is waited for.
const LOCK: Duration = Duration::from_secs(60);

impl Lab {
    /// Makes a lab. What was made is taken away again if something fails.
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
        // What a crash, or one who lost patience, left behind.
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

    /// Opens a lab that is up.
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

    /// Takes a lab away, whatever is left of it, and tells whether anything was. Taking away nothing is done at once.
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
        // Others' labs keep theirs.
        let _ = folder.parent().map(fs::remove_dir);
        Ok(existed)
    }

    /// What is in a lab that is up, for those who only look: its lock is not waited for.
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

    /// What is in it.
    pub fn state(&self) -> &LabState {
        &self.state
    }

    /// The file with its contexts.
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

    /// Starts processes that are stopped or died.
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

    /// Gives processes variables for their environment, from their next start on.
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

    /// Every process of the lab: daemons, and the pods'.
    pub fn processes(&self) -> impl Iterator<Item = &ProcessState> {
        self.state.all_processes()
    }

    /// A cluster's component.
    pub fn component(&self, cluster: &str, component: &Component) -> Option<&ProcessState> {
        let name = component.process(cluster);
        self.state.processes.iter().find(|process| process.name == name)
    }

    /// The processes that words name: a process by its full name, all of a cluster by `a/`, all of a kind by `etcd`,
    /// `apiserver`, `agent`, every replica's among them, or a cluster's by `a/agent`.
    pub fn matching(&self, words: &[String]) -> Result<Vec<String>, LabError> {
        let mut found = BTreeSet::new();
        for word in words {
            let matches = |name: &&str| {
                let parts: Vec<&str> = name.split('/').collect();
                let (first, last) = (parts.first().copied(), parts.last().copied());
                // Of the control plane's names the number is left out. Pods' may end in one too.
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
        // Agents make theirs below it.
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

/// Gives a node the chain of plugins that attaches its pods.
fn make_cni(number: ClusterNumber, node: &NodeState, at: NodeNumber) -> Result<(), LabError> {
    let ipam = node.ipam();
    fs::create_dir_all(&ipam).map_err(LabError::io(&ipam))?;
    let ranges = number.node_pod_cidrs(at);
    let chain = Conflist::for_node(&ranges, &ipam, &node.admin_socket, &node.pods_dir())?;
    chain.write(&node.conflist())
}

/// Whether anything is left of a lab: its state, its tables, its processes' cgroup or its network namespaces.
fn is_there(name: &LabName) -> Result<bool, LabError> {
    let cgroup = name.cgroup(&host_setup::cgroup2()?);
    let folders = [name.folder(), name.pins(), cgroup];
    let mut netns = fs::read_dir(NETNS).into_iter().flatten().flatten();
    let prefix = name.netns_prefix();
    let is_ours = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with(&prefix);
    Ok(folders.iter().any(|folder| folder.exists()) || netns.any(is_ours))
}

/// Refuses who is not root, before anything else is looked at.
pub fn need_root() -> Result<(), LabError> {
    if Uid::effective().is_root() { Ok(()) } else { Err(LabError::NotRoot) }
}

/// Beside the lab's folder, which comes and goes.
fn lock_path(name: &LabName) -> PathBuf {
    name.folder().with_extension("lock")
}

fn lock(name: &LabName) -> Result<Lock, LabError> {
    let path = lock_path(name);
    let folder = path.parent().unwrap_or(Path::new("/"));
    loop {
        host_setup::make_folder(folder)?;
        match Lock::wait(&path, LOCK) {
            // The last of other labs has just taken the folder with it.
            Err(LockError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            result => return Ok(result?),
        }
    }
}

/// Takes away everything that bears the lab's name, known to its state or not: processes first, by the cgroup that all of
/// them are in, then namespaces, pins, and the daemons' folders.
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
    // The parents, where no other lab needs them.
    let _ = name.pins().parent().map(fs::remove_dir);
    let _ = name.cgroup(&host_setup::cgroup2()?).parent().map(fs::remove_dir);
    Ok(())
}
