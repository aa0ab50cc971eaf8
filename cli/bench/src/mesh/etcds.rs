//! The etcds that the reader follows: those of the lab, or one process that replays the contents of one of them.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    process::{Child, Stdio},
    time::SystemTime,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mesh_certs::{Ca, Clock, ClusterPki, CredentialFiles, Store};
use mesh_etcd::{Connection, LastAddresses, Target};
use mesh_follow::KeyRange;
use mesh_lab::{ClusterState, within_netns};
use mesh_model::{ClusterId, ClusterLimit, ClusterName};
use mesh_offline::KeysFile;
use mesh_replay::{ClusterFile, ReplayFile};
use mesh_source::cluster_directory::{ClusterDirectory, ClusterSettings};
use mesh_wire::{
    Key, key,
    peer_file::{HostAlias, PeerFile},
};

use crate::{
    bench_lab::{BenchLab, adopt, first_node, ipv4},
    error::{BenchError, file, io},
};

/// A cluster that the reader follows.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) name: ClusterName,
    pub(super) id: ClusterId,
    /// The connection as the reader.
    pub(super) reader: Target,
    /// The connection as the administrator.
    pub(super) admin: Target,
}

/// A process that replays a recording as many clusters. It ends when the value is dropped.
pub(super) struct Replay {
    process: Child,
}

/// The prefix of a cluster's records.
const STATE: &str = "cilium/state/";
/// A replayed cluster's port is its ID plus this.
const PORTS: u16 = 20_000;
/// The IDs of the lab's two clusters, and one whose pods would be in the reader's service range.
const TAKEN: [u8; 3] = [1, 2, 102];
/// The namespace in the names of certificates.
const NAMESPACE: &str = "clustermesh";

/// Reads the keys that the reader may read in a cluster's etcd, as the reader.
pub(super) fn record(reader: &ClusterState, source: &ClusterState) -> Result<KeysFile, BenchError> {
    let Peer { name, id, reader: target, .. } =
        peer(reader, &ClusterDirectory::new(&source.directory))?;
    let entries = within_netns(&first_node(reader)?.netns, || {
        block_on(async {
            let connection = connect(&target).await?;
            let mut entries = BTreeMap::new();
            for range in ranges_of(&name) {
                let found = connection.list(&range).await;
                let (_, found) = found.map_err(|error| failed("recording", &error))?;
                let text = |key: Vec<u8>| String::from_utf8_lossy(&key).into_owned();
                entries.extend(found.into_iter().map(|kv| (text(kv.key), kv.value)));
            }
            Ok(entries)
        })
    })??;
    Ok(KeysFile { cluster: name, id, entries })
}

/// The ranges of a cluster that a peer may read. It may not read the keys between them.
fn ranges_of(cluster: &ClusterName) -> [KeyRange; 4] {
    [
        KeyRange::prefix(key::HEARTBEAT),
        KeyRange::key(&Key::ClusterConfig(cluster.clone()).to_string()),
        KeyRange::prefix(STATE),
        KeyRange::prefix(&format!("{}{cluster}/", key::CANARIES)),
    ]
}

/// This many IDs that no cluster of the lab has.
pub(super) fn ids(count: usize) -> Vec<u8> {
    (1..=u8::MAX).filter(|id| !TAKEN.contains(id)).take(count).collect()
}

impl Replay {
    /// Replays a recording as clusters with these IDs, on a node of the recorded cluster, and connects the reader to them.
    pub(super) fn start(
        lab: &BenchLab,
        recording: &KeysFile,
        ids: &[u8],
    ) -> Result<Self, BenchError> {
        let source = lab.cluster(0)?;
        let node = first_node(source)?;
        let ip = ipv4(node)?;
        let folder = lab.folder().join("replay");
        fs::create_dir_all(&folder).map_err(file(&folder))?;
        let mut replay = ReplayFile { clusters: Vec::new(), keep_alive: true };
        for &id in ids {
            let directory = ClusterDirectory::new(&folder.join(name(id)));
            make_directory(&directory, id, ip)?;
            replay.clusters.push(ClusterFile {
                name: name(id),
                id: id.into(),
                listen: listen(id, ip),
                pki: directory.pki(),
                ranges: ranges(source.id, id),
            });
        }
        let write = |name: &str, text: String| -> Result<PathBuf, BenchError> {
            let path = folder.join(name);
            fs::write(&path, text).map_err(file(&path))?;
            Ok(path)
        };
        let json =
            |text: serde_json::Result<String>| text.map_err(|error| failed("a file", &error));
        let keys = write("keys.json", json(serde_json::to_string(recording))?)?;
        let clusters = write("clusters.json", json(serde_json::to_string(&replay))?)?;
        let mut command = lab.clustermesh_in(node);
        command.args(["bench", "replay", "--keys"]).arg(keys).arg("--clusters").arg(clusters);
        let mut process = command.stdout(Stdio::piped()).spawn().map_err(io("the replay"))?;
        let output = process.stdout.take();
        let replay = Self { process };
        adopt(&replay.process, node)?;
        let mut line = String::new();
        let read = output.map(|output| BufReader::new(output).read_line(&mut line));
        if !matches!(read, Some(Ok(1..))) {
            return Err(BenchError::Unexpected(
                "the replay ended before it listened: its message is above".into(),
            ));
        }
        for id in ids {
            let directory = folder.join(name(*id)).display().to_string();
            let mode = ["connect", "--connection-mode", "unicast", "--context", "b"];
            lab.clustermesh(&[&mode[..], &["--destination-context", &directory]].concat())?;
        }
        Ok(replay)
    }
}

/// The replayed clusters as peers of the reader.
pub(super) fn replayed_peers(lab: &BenchLab, ids: &[u8]) -> Result<Vec<Peer>, BenchError> {
    let reader = lab.cluster(1)?;
    let peer = |id: &u8| {
        let directory = ClusterDirectory::new(&lab.folder().join("replay").join(name(*id)));
        peer(reader, &directory)
    };
    ids.iter().map(peer).collect()
}

/// Clusters of the lab as peers of the reader.
pub(super) fn lab_peers(
    reader: &ClusterState,
    clusters: &[ClusterState],
) -> Result<Vec<Peer>, BenchError> {
    let peer = |cluster: &ClusterState| peer(reader, &ClusterDirectory::new(&cluster.directory));
    clusters.iter().map(peer).collect()
}

fn peer(reader: &ClusterState, directory: &ClusterDirectory) -> Result<Peer, BenchError> {
    let settings = directory.settings()?;
    let pki = ClusterPki::new(&directory.pki());
    let endpoints = settings.endpoints.iter().flatten().take(1);
    let endpoints = endpoints.map(|address| format!("https://{}", SocketAddr::from(*address)));
    let admin = CredentialFiles {
        ca: pki.certificate("ca"),
        certificate: pki.certificate("admin"),
        key: pki.key("admin"),
    };
    Ok(Peer {
        reader: target(reader, settings.name.as_str())?,
        admin: target_of(endpoints.collect(), Vec::new(), admin)?,
        name: settings.name,
        id: settings.id,
    })
}

impl Drop for Replay {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The name of a replayed cluster.
fn name(id: u8) -> String {
    format!("replayed-{id}")
}

/// How a cluster connects to another one's etcd, from its peer file.
fn target(reader: &ClusterState, peer: &str) -> Result<Target, BenchError> {
    let path = reader.directory.join("peers").join(peer);
    let text = fs::read_to_string(&path).map_err(file(&path))?;
    let PeerFile { endpoints, host_aliases, trusted_ca_file, cert_file, key_file, .. } =
        PeerFile::parse(&text).map_err(|error| failed("a peer file", &error))?;
    let beside = |file: Option<PathBuf>| {
        let file = file.map(|file| reader.directory.join("peers").join(file));
        file.ok_or_else(|| BenchError::Unexpected(format!("{}: a file is missing", path.display())))
    };
    let (ca, certificate, key) = (beside(trusted_ca_file)?, beside(cert_file)?, beside(key_file)?);
    target_of(endpoints, host_aliases, CredentialFiles { ca, certificate, key })
}

fn target_of(
    endpoints: Vec<String>,
    host_aliases: Vec<HostAlias>,
    files: CredentialFiles,
) -> Result<Target, BenchError> {
    let credentials = Store::open(files, SystemTime::now());
    let (_, credentials) = credentials.map_err(|error| failed("credentials", &error))?;
    let (clock, last_addresses) = (Clock::system(), LastAddresses::default());
    Ok(Target { endpoints, host_aliases, credentials, clock, last_addresses })
}

/// Connects to an etcd.
pub(super) async fn connect(target: &Target) -> Result<Connection, BenchError> {
    let connection = mesh_etcd::connect(target, 0).await;
    connection.map_err(|failure| BenchError::Unexpected(failure.reason))
}

pub(super) fn block_on<T>(
    future: impl Future<Output = Result<T, BenchError>>,
) -> Result<T, BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(io("a runtime"))?.block_on(future)
}

pub(super) fn failed(what: &str, error: &dyn std::error::Error) -> BenchError {
    BenchError::Unexpected(format!("{what}: {error}"))
}

fn cluster_name(name: &str) -> Result<ClusterName, BenchError> {
    ClusterName::new(name).map_err(|error| failed("a cluster's name", &error))
}

/// Writes the directory of a replayed cluster: settings, and certificates of a CA of its own.
fn make_directory(directory: &ClusterDirectory, id: u8, ip: IpAddr) -> Result<(), BenchError> {
    if directory.settings_file().exists() {
        return Ok(());
    }
    fs::create_dir_all(directory.path()).map_err(file(directory.path()))?;
    let cluster_id = ClusterId::new(id.into(), ClusterLimit::Max255);
    let address = listen(id, ip);
    let settings = ClusterSettings {
        name: cluster_name(&name(id))?,
        id: cluster_id.map_err(|error| failed("a cluster's ID", &error))?,
        limit: ClusterLimit::Max255,
        pod_cidrs: pods(id).into(),
        service_cidrs: Vec::new(),
        node_cidrs: nodes(id).into(),
        endpoints: vec![vec![(address.ip(), address.port())]],
        default_global_namespace: true,
    };
    let path = directory.settings_file();
    let pki = ClusterPki::new(&directory.pki());
    let made = pki.create(&name(id), NAMESPACE, &[ip], Ca::ISSUED_LIFETIME);
    made.map_err(|error| failed("certificates", &error))?;
    let text = settings.to_yaml().map_err(|error| failed("settings", &error))?;
    fs::write(&path, text).map_err(file(&path))
}

fn listen(id: u8, ip: IpAddr) -> SocketAddr {
    (ip, PORTS + u16::from(id)).into()
}

/// The pod ranges of a cluster, by the lab's plan of addresses.
fn pods(id: u8) -> [IpNet; 2] {
    let v6 = Ipv6Addr::new(0xfd00, 0x10, id.into(), 0, 0, 0, 0, 0);
    [net_v4(Ipv4Addr::new(10, id, 0, 0), 16), net_v6(v6, 48)]
}

/// The node ranges of a cluster.
fn nodes(id: u8) -> [IpNet; 2] {
    let v6 = Ipv6Addr::new(0xfd00, 0x172, 0, 0, 0, 0, id.into(), 0);
    [net_v4(Ipv4Addr::new(172, 31, id, 0), 24), net_v6(v6, 112)]
}

fn net_v4(ip: Ipv4Addr, length: u8) -> IpNet {
    Ipv4Net::new_assert(ip, length).into()
}

fn net_v6(ip: Ipv6Addr, length: u8) -> IpNet {
    Ipv6Net::new_assert(ip, length).into()
}

/// The ranges of the recorded cluster with those that replace them.
fn ranges(from: u8, to: u8) -> Vec<(IpNet, IpNet)> {
    let of = |id| [pods(id), nodes(id)].into_iter().flatten();
    of(from).zip(of(to)).collect()
}
