//! A cluster directory with a local etcd's file and a folder of peers, and who follows what they name.
#![allow(dead_code, reason = "no test uses all of it")]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use mesh_certs::{Ca, ClusterPki};
use mesh_etcd::LastAddresses;
use mesh_follow::{PeerConfig, Role};
use mesh_model::{ClusterId, ClusterLimit, ClusterName};
use mesh_peers::{PeerMessage, Peers, PeersConfig, follower_thread};
use mesh_wire::peer_file::PeerFile;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::mpsc};

/// A directory with its files, and the place of an etcd that answers nothing.
pub(crate) struct Directory {
    pub(crate) folder: TempDir,
    pub(crate) etcd: TcpListener,
}

impl Directory {
    pub(crate) async fn new() -> Self {
        mesh_certs::install_crypto();
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("peers")).unwrap();
        let etcd = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let directory = Self { folder, etcd };
        fs::write(directory.local_file(), directory.leads_to_etcd()).unwrap();
        directory
    }

    fn local_file(&self) -> PathBuf {
        self.folder.path().join("local.yaml")
    }

    /// The text of a file that leads to the etcd, with credentials that can be read.
    pub(crate) fn leads_to_etcd(&self) -> String {
        let address: SocketAddr = self.etcd.local_addr().unwrap();
        let pki = ClusterPki::new(&self.folder.path().join("pki"));
        if !pki.certificate("ca").exists() {
            pki.create("a", "clustermesh", &[address.ip()], Ca::ISSUED_LIFETIME).unwrap();
        }
        let path = |path: PathBuf| path.display().to_string();
        let text = format!(
            "endpoints: ['https://{address}']\ntrusted-ca-file: {}\ncert-file: {}\nkey-file: {}\n",
            path(pki.certificate("ca")),
            path(pki.certificate("admin")),
            path(pki.key("admin")),
        );
        PeerFile::parse(&text).unwrap();
        text
    }

    /// Renames a peer file into its place, as whole files come.
    pub(crate) fn add_peer(&self, name: &str) {
        let peers = self.folder.path().join("peers");
        fs::write(peers.join(".new"), self.leads_to_etcd()).unwrap();
        fs::rename(peers.join(".new"), peers.join(name)).unwrap();
    }

    /// The same, with credentials of its own beside it.
    pub(crate) fn add_peer_with_credentials(&self, name: &str) {
        let mut text = self.leads_to_etcd();
        let pki = ClusterPki::new(&self.folder.path().join("pki"));
        let files = [pki.certificate("ca"), pki.certificate("admin"), pki.key("admin")];
        for (file, own) in files.iter().zip(credentials(name)) {
            fs::copy(file, self.folder.path().join("peers").join(&own)).unwrap();
            text = text.replace(&file.display().to_string(), &own);
        }
        fs::write(self.folder.path().join("peers").join(name), text).unwrap();
    }

    /// Removes such a peer, its file first.
    pub(crate) fn remove_peer_with_credentials(&self, name: &str) {
        for file in [name.to_owned()].into_iter().chain(credentials(name)) {
            fs::remove_file(self.folder.path().join("peers").join(file)).unwrap();
        }
    }

    /// Follows what the files name, and reports to this sender.
    pub(crate) fn follow(&self, messages: mpsc::Sender<PeerMessage>) {
        let limit = ClusterLimit::Max255;
        let config = PeersConfig {
            local: PeerConfig {
                name: ClusterName::new("a").unwrap(),
                role: Role::Remote,
                local_id: ClusterId::new(1, limit).unwrap(),
                node: None,
                endpoints: 1,
                limit,
                uuid: None,
                id: None,
            },
            local_file: self.local_file(),
            folder: self.folder.path().join("peers"),
            previous: Vec::new(),
            last_addresses: LastAddresses::default(),
        };
        let peers = Peers::<PeerMessage>::new(config, messages, follower_thread().unwrap());
        tokio::spawn(peers.run());
    }
}

/// How many inotify instances this process has.
pub(crate) fn inotify_instances() -> usize {
    let is_inotify = |entry: std::io::Result<fs::DirEntry>| {
        let target = entry.and_then(|entry| fs::read_link(entry.path()));
        target.is_ok_and(|target: PathBuf| target == Path::new("anon_inode:inotify"))
    };
    fs::read_dir("/proc/self/fd").unwrap().map(is_inotify).filter(|is| *is).count()
}

/// Waits until a cluster is followed. What was wrong with the files when they were read last.
pub(crate) async fn until_followed(
    messages: &mut mpsc::Receiver<PeerMessage>,
    wanted: &str,
) -> Vec<String> {
    let mut followed = false;
    loop {
        match messages.recv().await.unwrap() {
            PeerMessage::Follow(name, _) => followed |= name.as_str() == wanted,
            // It comes after all that it led to.
            PeerMessage::Read { problems, .. } if followed => return problems,
            _ => {}
        }
    }
}

/// The names of a peer's CA, certificate and key.
fn credentials(name: &str) -> [String; 3] {
    ["-ca.crt", ".crt", ".key"].map(|end| format!("{name}.etcd-client{end}"))
}
