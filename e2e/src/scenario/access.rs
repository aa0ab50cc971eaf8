//! Who may connect to an etcd, and what a peer may do there. Tested with `etcdctl` and `curl`, which do not use our code.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use mesh_certs::{Ca, Profile};

use crate::echo_service::two_clusters_with_echo;
use crate::mesh::{Daemon, Mesh, daemons, eventually, output};

/// An etcd as nodes of the other cluster reach it.
struct Target<'a, M> {
    mesh: &'a M,
    from: (&'a str, &'a str),
    endpoint: String,
}

/// A client without a certificate, or with one of another CA, is refused. A peer may read the exported keys, but nothing
/// else, and may not write. Agents reach the other cluster's etcd over the underlay.
pub fn peers_read_and_no_peer_writes(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let node = mesh.nodes(&other)[0].clone();
    let etcd = mesh.node_ips(&one, &mesh.nodes(&one)[0])[0];
    let target = Target { mesh, from: (&other, &node), endpoint: format!("https://{etcd}:2379") };
    let folder = mesh.peer_folder(&other);
    let file = |suffix: &str| folder.join(format!("{one}.etcd-client{suffix}"));
    let (ca, certificate, key) = (file("-ca.crt"), file(".crt"), file(".key"));
    let peer = [("--cacert", &ca), ("--cert", &certificate), ("--key", &key)];

    // The exported keys.
    let read = target.etcdctl(&peer, &["get", "--prefix", "cilium/state/", "--keys-only"]);
    let read = read.expect("a peer reads what is exported");
    for kind in ["identities/v1/id/", "ip/v1/", "nodes/v1/", "services/v1/"] {
        assert!(read.contains(&format!("cilium/state/{kind}")), "{read}");
    }
    // Local nodes may read more.
    let pki = mesh.peer_folder(&one).with_file_name("pki");
    let own = |name: &str| pki.join(name);
    let (ca, certificate, key) = (own("ca.crt"), own("local.crt"), own("local.key"));
    let local = [("--cacert", &ca), ("--cert", &certificate), ("--key", &key)];
    let read = target.etcdctl(&local, &["get", "--prefix", "clustermesh/local/v1/", "--keys-only"]);
    let read = read.expect("a local node reads what is for it");
    for kind in ["pods/", "position"] {
        assert!(read.contains(&format!("clustermesh/local/v1/{kind}")), "{read}");
    }

    // Keys that are not exported, and everything that changes something.
    let user = format!("remote-{other}");
    let refused: [&[&str]; 11] = [
        &["get", "--prefix", "clustermesh/"],
        &["get", "--prefix", "clustermesh/local/v1/pods/"],
        &["get", "clustermesh/local/v1/position"],
        &["get", "--prefix", ""],
        &["get", "cilium"],
        &["put", "cilium/state/ip/v1/default/10.0.0.1", "{}"],
        &["put", "clustermesh/local/v1/position", "{}"],
        &["put", "anything", "else"],
        &["del", "--prefix", "cilium/state/"],
        &["role", "grant-permission", "remote", "readwrite", "--prefix=true", ""],
        &["user", "grant-role", &user, "root"],
    ];
    for command in refused {
        let reason = target.etcdctl(&peer, command).expect_err("only reading is allowed");
        assert!(reason.contains("permission denied"), "{command:?}: {reason}");
    }

    // TLS accepts the peer, and refuses a client without a certificate or with one of another CA, whatever its name.
    target.tls(Some((&certificate, &key))).expect("a peer is accepted");
    let reason = target.tls(None).expect_err("no certificate");
    assert!(reason.contains("alert"), "refused by TLS: {reason}");
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| temporary.path().join(name);
    let now = SystemTime::now();
    let (stranger, _) = Ca::create("stranger", now, Ca::LIFETIME).expect("a CA");
    for user in ["root".into(), user, format!("admin-{one}")] {
        let profile = Profile::Client { user };
        let issued = stranger.issue(&profile, now, Ca::ISSUED_LIFETIME).expect("a certificate");
        fs::write(path("crt"), issued.certificate).expect("a file");
        fs::write(path("key"), issued.key).expect("a file");
        let reason = target.tls(Some((&path("crt"), &path("key")))).expect_err("a foreign one");
        assert!(reason.contains("alert"), "refused by TLS: {reason}");
    }

    over_the_underlay(mesh, &one, &other);
}

/// Every agent is connected to the other cluster's etcd at the address of a node.
fn over_the_underlay(mesh: &impl Mesh, one: &str, other: &str) {
    for daemon in daemons(mesh) {
        let Daemon::Agent(cluster, node) = daemon else { continue };
        let peer = if cluster == one { other } else { one };
        let etcd = mesh.node_ips(peer, &mesh.nodes(peer)[0]);
        eventually(&format!("{cluster}/{node} has a connection to {etcd:?}"), || {
            let sockets = mesh.on_node(&cluster, &node, &["ss", "-Htn", "state", "established"]);
            let text = output(sockets)?;
            let reached = etcd
                .iter()
                .any(|ip| text.contains(&format!("{}", std::net::SocketAddr::new(*ip, 2379))));
            if reached { Ok(()) } else { Err(text) }
        });
    }
}

impl<M: Mesh> Target<'_, M> {
    fn etcdctl(&self, files: &[(&str, &PathBuf)], command: &[&str]) -> Result<String, String> {
        let mut words = vec!["etcdctl".to_owned(), format!("--endpoints={}", self.endpoint)];
        words.extend(["--command-timeout=3s".into(), "--dial-timeout=2s".into()]);
        words.extend(files.iter().map(|(flag, file)| format!("{flag}={}", file.display())));
        words.extend(command.iter().map(|&word| word.to_owned()));
        self.run(words)
    }

    /// Requests the version, which needs no permission: every client that TLS accepts gets it.
    fn tls(&self, files: Option<(&Path, &Path)>) -> Result<String, String> {
        let mut words = vec!["curl".to_owned(), "-sS".into(), "--max-time".into(), "5".into()];
        // With TLS 1.3, the handshake is finished for the client before the server checks its certificate, so the reason
        // may get lost.
        words.extend(["--tls-max".into(), "1.2".into()]);
        words.extend(["--insecure".into(), format!("{}/version", self.endpoint)]);
        if let Some((certificate, key)) = files {
            words.extend(["--cert".into(), certificate.display().to_string()]);
            words.extend(["--key".into(), key.display().to_string()]);
        }
        self.run(words)
    }

    fn run(&self, words: Vec<String>) -> Result<String, String> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut command = self.mesh.on_node(self.from.0, self.from.1, &words);
        command.env("ETCDCTL_API", "3");
        output(command)
    }
}
