use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::Parser as _;
use mesh_certs::{Bundle, CredentialFiles, details};
use mesh_model::ClusterName;

use super::*;
use crate::{
    args::{Args, CertsCommand, Command as Commands},
    connect::{make, plan_between},
};

/// Two clusters, the second of which follows the first.
struct Two {
    _root: tempfile::TempDir,
    one: PathBuf,
    other: PathBuf,
}

impl Two {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let (one, other) = (make(root.path(), "a", 1, |_| {}), make(root.path(), "b", 2, |_| {}));
        plan_between(&other, &one).unwrap().into_iter().for_each(|step| step.carry_out().unwrap());
        Self { _root: root, one, other }
    }

    /// Reads the state again, as each run of `clustermesh certs rotate` does.
    fn read(&self, flags: &[&str]) -> (RotateArgs, Cluster) {
        let (one, other) = (self.one.display().to_string(), self.other.display().to_string());
        let mut words = vec!["clustermesh", "certs", "rotate", "--context", &one];
        if !flags.contains(&"--peer-done") {
            words.extend(["--peer-context", &other]);
        }
        let args = Args::try_parse_from(words.iter().chain(flags)).unwrap();
        let Commands::Certs(CertsCommand::Rotate(args)) = args.command else { panic!("rotate") };
        let cluster = Cluster::read(&args).unwrap();
        (args, cluster)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.one.join("pki").join(name)).unwrap()
    }

    /// Each certificate in the files is trusted by the daemons that verify it.
    fn assert_whole(&self) {
        let path = |path: &str| self.one.join("pki").join(path);
        let peers = self.other.join("peers");
        let peer = CredentialFiles {
            ca: peers.join("a.etcd-client-ca.crt"),
            certificate: peers.join("a.etcd-client.crt"),
            key: peers.join("a.etcd-client.key"),
        };
        let own = |name: &str| CredentialFiles {
            ca: path("ca.crt"),
            certificate: path(&format!("{name}.crt")),
            key: path(&format!("{name}.key")),
        };
        let trusted = Bundle::parse(&self.text("ca.crt")).unwrap();
        for files in [own("admin"), own("local"), own("server"), peer.clone()] {
            files.load(SystemTime::now()).unwrap();
            let text = fs::read_to_string(&files.certificate).unwrap();
            assert!(trusted.signed(&text), "{} is trusted", files.certificate.display());
        }
        for ca in [path("ca.crt"), peer.ca] {
            let bundle = Bundle::parse(&fs::read_to_string(&ca).unwrap()).unwrap();
            assert!(bundle.signed(&self.text("server.crt")), "by {}", ca.display());
        }
    }
}

/// Each step starts from the files alone, as if the command had been killed before it.
#[test]
fn a_ca_is_exchanged_in_steps_each_of_which_leaves_everything_whole() {
    let two = Two::new();
    let old = Bundle::parse(&two.text("ca.crt")).unwrap();
    let server = details(&two.text("server.crt")).unwrap().remove(0);
    let mut done = Vec::new();
    loop {
        let (_, cluster) = two.read(&["--ca", "--dry-run"]);
        let facts = cluster.facts(Aim::NewCa).unwrap();
        // No etcd runs in this test.
        let mut todo = exchange(&facts).into_iter().filter(|todo| *todo != Todo::EtcdTrusts);
        let Some(next) = todo.next() else { break };
        cluster.carry_out(&next).unwrap();
        two.assert_whole();
        done.push(next.to_string());
        let refused = finish(&cluster.facts(Aim::NewCa).unwrap());
        if todo.next().is_some() {
            assert!(refused.is_err(), "after {done:#?}");
        }
    }
    assert_eq!(done.len(), 8, "{done:#?}");
    let both = Bundle::parse(&two.text("ca.crt")).unwrap();
    assert!(both.len() == 2 && both.includes(&old));
    let names =
        |details: &mesh_certs::Details| (details.common_name.clone(), details.names.clone());
    let server_now = details(&two.text("server.crt")).unwrap().remove(0);
    assert_eq!(names(&server_now), names(&server));
    assert_ne!(server_now.issuer, server.issuer);

    // A peer that connects now gets both CAs and a certificate of the new one.
    assert!(plan_between(&two.other, &two.one).unwrap().is_empty());

    loop {
        let (_, cluster) = two.read(&["--ca", "--finish", "--dry-run"]);
        let todo = finish(&cluster.facts(Aim::NewCa).unwrap()).unwrap();
        let Some(next) = todo.into_iter().find(|todo| *todo != Todo::EtcdForgets) else { break };
        cluster.carry_out(&next).unwrap();
        two.assert_whole();
    }
    let new = Bundle::parse(&two.text("ca.crt")).unwrap();
    assert!(new.len() == 1 && !new.includes(&old));
    assert!(!two.one.join("pki/ca-next.key").exists() && !two.one.join("pki/ca-next.crt").exists());
    assert!(plan_between(&two.other, &two.one).unwrap().is_empty());
}

#[test]
fn what_is_young_is_left_alone() {
    let two = Two::new();
    let aim = Aim::Young { server: true, clients: true };
    let (_, cluster) = two.read(&["--server", "--clients", "--dry-run"]);
    assert!(reissue(&cluster.facts(aim).unwrap()).is_empty(), "it is minutes old");
    let flags = ["--server", "--clients", "--dry-run", "--min-age", "0", "--lifetime", "1h"];
    let (_, cluster) = two.read(&flags);
    let todo = reissue(&cluster.facts(aim).unwrap());
    assert_eq!(todo.len(), 4, "{todo:?}");
    for todo in todo {
        cluster.carry_out(&todo).unwrap();
        two.assert_whole();
    }
    let ends = details(&two.text("admin.crt")).unwrap()[0].not_after;
    assert!(ends < SystemTime::now() + Duration::from_secs(3_601));
    let only_server = Aim::Young { server: true, clients: false };
    assert_eq!(reissue(&cluster.facts(only_server).unwrap()).len(), 1);
    // A certificate with another certificate's key is replaced.
    fs::copy(two.one.join("pki/local.key"), two.one.join("pki/admin.key")).unwrap();
    let (_, cluster) = two.read(&["--clients", "--dry-run"]);
    assert_eq!(reissue(&cluster.facts(aim).unwrap()), [Todo::Issue(plan::Leaf::Admin)]);
}

#[test]
fn a_peer_that_is_not_at_hand_is_asked_for() {
    let two = Two::new();
    let name = ClusterName::new("b").unwrap();
    let (_, cluster) = two.read(&["--ca", "--dry-run", "--peer-done", "zz"]);
    let todo = exchange(&cluster.facts(Aim::NewCa).unwrap());
    assert!(todo.contains(&Todo::AskPeer(name.to_string())), "{todo:?}");
    let (_, cluster) = two.read(&["--ca", "--dry-run", "--peer-done", "b"]);
    let todo = exchange(&cluster.facts(Aim::NewCa).unwrap());
    assert!(!todo.contains(&Todo::AskPeer(name.to_string())), "{todo:?}");
}

/// The whole command, as far as it gets without an etcd: it reports what it waits for, and changes nothing with --dry-run.
#[test]
fn it_waits_for_the_etcd() {
    let two = Two::new();
    let before = two.text("ca.crt");
    let (args, cluster) = two.read(&["--ca", "--dry-run"]);
    drop(cluster);
    assert_eq!(run(&args, Output::Json).unwrap(), Outcome::Done);
    assert_eq!(two.text("ca.crt"), before);
    let one_endpoint = fs::read_to_string(two.one.join("cluster.yaml")).unwrap();
    // No etcd listens there.
    let nobody = one_endpoint.replace("172.31.1.1:2379", "127.0.0.1:1");
    fs::write(two.one.join("cluster.yaml"), nobody).unwrap();
    let (args, cluster) = two.read(&["--ca"]);
    drop(cluster);
    assert_eq!(run(&args, Output::Json).unwrap(), Outcome::NotReady);
    assert_eq!(Bundle::parse(&two.text("ca.crt")).unwrap().len(), 2);
    let (args, cluster) = two.read(&["--ca", "--finish"]);
    drop(cluster);
    let error = run(&args, Output::Json).unwrap_err().to_string();
    assert!(error.contains("the old CA still signs"), "{error}");
    let (args, cluster) = two.read(&["--ca", "--etcd-restarted"]);
    drop(cluster);
    assert_eq!(run(&args, Output::Json).unwrap(), Outcome::Done);
    assert_eq!(run(&args, Output::Json).unwrap(), Outcome::Done, "again");
    two.assert_whole();
}
