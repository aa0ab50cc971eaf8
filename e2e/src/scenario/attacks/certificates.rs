//! Wrong certificates of the hostile cluster's etcd, and of clients that connect to an honest etcd.

use std::{
    fs,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use mesh_certs::{Ca, ClusterPki, Issued, Profile};

use super::{Victims, hostile_status};
use crate::mesh::{Daemon, Mesh, output, within};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a reader may take to reconnect to an etcd that it refused several times.
const PATIENCE: Duration = Duration::from_secs(90);

/// Each is refused, and agents report what is wrong with the certificate of their peer.
pub(super) fn are_refused(mesh: &impl Mesh, victims: &Victims, unharmed: &dyn Fn(&str)) {
    let pki = |cluster: &str| mesh.peer_folder(cluster).with_file_name("pki");
    let hostile = ClusterPki::new(&pki(&victims.hostile));
    let files = [hostile.certificate("server"), hostile.key("server")];
    let saved = files.each_ref().map(|file| fs::read(file).expect("a file"));
    let now = SystemTime::now();
    let own = hostile.ca(now).expect("a CA");
    let (foreign, _) = Ca::create("z", now, Ca::LIFETIME).expect("a CA");
    let server = |ca: &Ca, name: &str, at| {
        let addresses = vec![IpAddr::from([127, 0, 0, 1])];
        let profile = Profile::Server { names: vec![name.into()], addresses };
        ca.issue(&profile, at, DAY).expect("a certificate")
    };
    let right = format!("{}.mesh.cilium.io", victims.hostile);
    let wrong = format!("{}.mesh.cilium.io", victims.honest[1]);
    let rows = [
        (
            "an etcd with a certificate of a foreign CA",
            server(&foreign, &right, now),
            "by a CA that is not trusted for it",
        ),
        ("an etcd with an expired certificate", server(&own, &right, now - 2 * DAY), "xpired"),
        (
            "an etcd with another peer's certificate",
            server(&own, &wrong, now),
            "for other names than the endpoint's",
        ),
    ];
    let restart = || {
        let etcd = Daemon::Etcd(victims.hostile.clone());
        mesh.kill(&etcd);
        mesh.start(&etcd);
    };
    for (name, issued, reason) in rows {
        println!("{name}");
        hostile.write("server", &issued).expect("files");
        restart();
        within(PATIENCE, name, || {
            let seen = hostile_status(mesh, victims);
            let unnamed = seen.iter().find(|(_, peer)| {
                peer["ready"] == true || !peer["ladder"].to_string().contains(reason)
            });
            unnamed.map_or(Ok(()), |(agent, peer)| Err(format!("{agent}: {peer:#}")))
        });
        unharmed(name);
    }
    for (file, content) in files.iter().zip(&saved) {
        fs::write(file, content).expect("a file");
    }
    restart();
    within(PATIENCE, "the hostile cluster is followed again", || {
        let seen = hostile_status(mesh, victims);
        let away = seen.iter().find(|(_, peer)| peer["ready"] != true);
        away.map_or(Ok(()), |(agent, peer)| Err(format!("{agent}: {peer:#}")))
    });
    strangers(mesh, victims, &own, &foreign);
}

/// An honest cluster's etcd refuses certificates that a client has issued itself, and expired ones.
fn strangers(mesh: &impl Mesh, victims: &Victims, own: &Ca, foreign: &Ca) {
    let [honest, other] = &victims.honest;
    let pki = mesh.peer_folder(honest).with_file_name("pki");
    let now = SystemTime::now();
    let theirs = ClusterPki::new(&pki).ca(now).expect("a CA");
    let client = |ca: &Ca, user: &str, at| {
        let profile = Profile::Client { user: user.into() };
        ca.issue(&profile, at, DAY).expect("a certificate")
    };
    let folder = tempfile::tempdir().expect("a folder");
    let files = ClusterPki::new(folder.path());
    let ip = &victims.nodes[0];
    let knock = |issued: &Issued| {
        files.write("knock", issued).expect("files");
        let path = |path: PathBuf| path.display().to_string();
        let [ca, cert, key] =
            [pki.join("ca.crt"), files.certificate("knock"), files.key("knock")].map(path);
        let endpoint = format!("--endpoints=https://{ip}:2379");
        let node = &mesh.nodes(&victims.hostile)[0];
        let words = ["etcdctl", &endpoint, "--cacert", &ca, "--cert", &cert, "--key", &key];
        let ask = ["get", "--command-timeout=2s", "cilium/.heartbeat"];
        let mut command = mesh.on_node(&victims.hostile, node, &[&words[..], &ask[..]].concat());
        command.env("ETCDCTL_API", "3");
        output(command)
    };
    let peer = format!("remote-{}", victims.hostile);
    let knocked = knock(&client(&theirs, &peer, now));
    assert!(knocked.is_ok(), "its valid certificate is accepted: {knocked:?}");
    for (name, issued) in [
        ("root by its own CA", client(own, "root", now)),
        ("root by a foreign CA", client(foreign, "root", now)),
        ("another peer by its own CA", client(own, &format!("remote-{other}"), now)),
        ("itself, with an expired certificate", client(&theirs, &peer, now - 2 * DAY)),
    ] {
        println!("a client that claims to be {name}");
        assert!(knock(&issued).is_err(), "{name} was accepted");
    }
}
