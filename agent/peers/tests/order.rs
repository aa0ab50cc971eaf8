//! A cluster's follower begins when the receiver knows of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use mesh_certs::{Ca, ClusterPki};
use mesh_etcd::LastAddresses;
use mesh_follow::{PeerConfig, Role};
use mesh_model::{ClusterId, ClusterLimit, ClusterName};
use mesh_peers::{PeerMessage, Peers, PeersConfig, follower_thread};
use mesh_wire::peer_file::PeerFile;
use tokio::{net::TcpListener, sync::mpsc, time::timeout};

/// The file that leads to an etcd at an address, and the credentials for it.
fn local_file(folder: &Path, etcd: SocketAddr) -> std::path::PathBuf {
    let pki = ClusterPki::new(&folder.join("pki"));
    pki.create("a", "clustermesh", &[etcd.ip()], Ca::ISSUED_LIFETIME).unwrap();
    let text = format!(
        "endpoints: ['https://{etcd}']\ntrusted-ca-file: {}\ncert-file: {}\nkey-file: {}\n",
        pki.certificate("ca").display(),
        pki.certificate("admin").display(),
        pki.key("admin").display(),
    );
    PeerFile::parse(&text).unwrap();
    let path = folder.join("local.yaml");
    fs::write(&path, text).unwrap();
    path
}

/// Followers have a thread of their own, which may be faster than the announcement to the receiver: what a cluster
/// reports before the receiver follows it would be lost, and the cluster synced all the same.
#[tokio::test]
async fn no_follower_begins_before_its_cluster_is_announced() {
    mesh_certs::install_crypto();
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("peers")).unwrap();
    let etcd = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
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
        local_file: local_file(folder.path(), etcd.local_addr().unwrap()),
        folder: folder.path().join("peers"),
        previous: Vec::new(),
        last_addresses: LastAddresses::default(),
    };
    // There is no room for an announcement.
    let (messages, mut receiver) = mpsc::channel(1);
    messages
        .send(PeerMessage::Read { problems: Vec::new(), complete: false, drained: [].into() })
        .await
        .unwrap();
    let peers = Peers::<PeerMessage>::new(config, messages, follower_thread().unwrap());
    tokio::spawn(peers.run());
    let early = timeout(Duration::from_millis(500), etcd.accept()).await;
    assert!(early.is_err(), "its etcd is asked already");
    assert!(matches!(receiver.recv().await, Some(PeerMessage::Read { .. })));
    let next = receiver.recv().await;
    assert!(
        matches!(&next, Some(PeerMessage::Follow(name, _)) if name.as_str() == "a"),
        "{next:?}"
    );
    timeout(Duration::from_secs(20), etcd.accept()).await.expect("now it is").unwrap();
}
