use std::{
    cell::{Cell, RefCell},
    time::SystemTime,
};

use anyhow::Context as _;
use mesh_certs::{Ca, ClusterPki, belong_together, request};
use mesh_wire::{
    peer_file::PeerFile,
    peering::{
        Acceptance, EtcdAddresses, NodeAddresses, PEER_SIZE, PeerEntries, SECRET_LIMIT,
        SignRequest, Signed,
    },
    users_file::{REMOTE_ROLE, User},
};

use super::*;

/// A cluster that answers as its apiserver would, with its Secret and users in memory.
struct Fake {
    name: String,
    pki: tempfile::TempDir,
    described: RefCell<Description>,
    keys: RefCell<std::collections::BTreeMap<String, String>>,
    /// After so many changes no command runs any more.
    budget: Cell<usize>,
}

impl Fake {
    fn new(name: &str, id: u32) -> Self {
        let pki = tempfile::tempdir().unwrap();
        ClusterPki::new(pki.path()).create(name, "clustermesh", &[], Ca::ISSUED_LIFETIME).unwrap();
        let ca = std::fs::read_to_string(pki.path().join("ca.crt")).unwrap();
        let node = NodeAddresses {
            node: "n1".into(),
            addresses: vec![format!("172.18.{id}.1").parse().unwrap()],
        };
        let described = Description {
            namespace: "clustermesh-system".into(),
            name: name.into(),
            id,
            max_connected_clusters: 255,
            pod_cidrs: vec![format!("10.{id}.0.0/16").parse().unwrap()],
            node_cidrs: vec![format!("172.18.{id}.0/24").parse().unwrap()],
            uuid: Some(uuid::Uuid::from_u128(id.into())),
            ca: ca.clone(),
            signer: ca,
            etcd: EtcdAddresses { replicas: vec![node], port: 12379, ..EtcdAddresses::default() },
            ..Description::default()
        };
        Self {
            name: name.into(),
            pki,
            described: RefCell::new(described),
            keys: RefCell::default(),
            budget: Cell::new(usize::MAX),
        }
    }

    fn change(&self) -> anyhow::Result<()> {
        let left = self.budget.get().checked_sub(1).context("killed")?;
        self.budget.set(left);
        Ok(())
    }
}

impl PeerCommands for Fake {
    fn context(&self) -> &str {
        &self.name
    }

    fn run(&self, args: &[&str], stdin: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut described = self.described.borrow_mut();
        let mut keys = self.keys.borrow_mut();
        let answer = match args {
            ["describe"] => serde_json::to_value(&*described)?,
            ["request", "--peer", peer] => {
                self.change()?;
                let made = request(&format!("remote-{}", self.name))?;
                keys.insert((*peer).into(), made.key);
                json!({ "request": made.certificate })
            }
            ["sign"] => {
                self.change()?;
                let SignRequest { peer, request } = serde_json::from_slice(stdin)?;
                let user = User { name: format!("remote-{peer}"), role: REMOTE_ROLE.into() };
                let now = SystemTime::now();
                let ca = ClusterPki::new(self.pki.path()).ca(now)?;
                let sign = |text| ca.sign(text, &user.name, now, Ca::ISSUED_LIFETIME);
                let certificate = request.as_deref().map(sign).transpose()?;
                if !described.users.users.contains(&user) {
                    described.users.users.push(user);
                }
                serde_json::to_value(Signed { certificate, ca: described.ca.clone() })?
            }
            ["accept"] => {
                self.change()?;
                let Acceptance { peer, file, signed } = serde_json::from_slice(stdin)?;
                let entries = PeerEntries::new(&ClusterName::new(&peer)?);
                let secret = &mut described.secret;
                secret.entries.insert(entries.file, file);
                if let Some(Signed { certificate, ca }) = signed {
                    let certificate = certificate.unwrap();
                    assert!(belong_together(&certificate, &keys[&peer]));
                    secret.entries.insert(entries.certificate, certificate);
                    secret.entries.insert(entries.ca, ca);
                    secret.keys.push(peer);
                }
                json!({})
            }
            ["remove", "--user", "--peer", peer] => {
                let entries = PeerEntries::new(&ClusterName::new(peer)?);
                let all = entries.all();
                let secret = &mut described.secret;
                secret.entries.retain(|name, _| !all.contains(&name.as_str()));
                secret.keys.retain(|name| name != peer);
                described.users.users.retain(|user| user.name != format!("remote-{peer}"));
                described.drained_peers.retain(|name| name != peer);
                json!({})
            }
            other => panic!("{other:?}"),
        };
        Ok(serde_json::to_vec(&answer)?)
    }
}

fn side(fake: &Fake) -> anyhow::Result<KubeSide<'_>> {
    KubeSide::read(fake, AddressKind::Auto, &[], "--destination-endpoint")
}

/// The steps of `a` that follows `b`, and of `b` that follows `a`.
fn connected(a: &Fake, b: &Fake) -> anyhow::Result<Vec<String>> {
    let (one, other) = (side(a)?, side(b)?);
    check(&one.facts, &other.facts, false)?;
    let follows = [plan(&one, &other)?, plan(&other, &one)?];
    let steps = follows.iter().flat_map(Follow::steps).collect();
    follows.iter().try_for_each(Follow::carry_out)?;
    Ok(steps)
}

fn name(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

#[test]
fn two_clusters_are_connected_once_and_disconnected() {
    let (a, b) = (Fake::new("a", 1), Fake::new("b", 2));
    let steps = connected(&a, &b).unwrap();
    assert_eq!(steps.len(), 10, "{steps:#?}");
    assert!(steps[4].contains("a: write peer b at 172.18.2.1:12379"), "{}", steps[4]);
    let one = side(&a).unwrap();
    let file = one.facts.peer(&name("b")).unwrap();
    assert_eq!(file.endpoints, ["https://b.mesh.cilium.io:12379"]);
    assert_eq!(file.clustermesh.as_ref().unwrap().uuid, Some(uuid::Uuid::from_u128(2)));
    assert_eq!(connected(&a, &b).unwrap(), Vec::<String>::new(), "done already");
    // Another address is another file, with the same credentials.
    b.described.borrow_mut().etcd.port = 12380;
    assert_eq!(connected(&a, &b).unwrap().len(), 1);
    // The user was removed by hand.
    b.described.borrow_mut().users.users.clear();
    assert_eq!(connected(&a, &b).unwrap().len(), 1);
    // A new CA is new credentials.
    std::fs::remove_dir_all(b.pki.path()).unwrap();
    ClusterPki::new(b.pki.path()).create("b", "clustermesh", &[], Ca::ISSUED_LIFETIME).unwrap();
    let ca = std::fs::read_to_string(b.pki.path().join("ca.crt")).unwrap();
    (b.described.borrow_mut().ca, b.described.borrow_mut().signer) = (ca.clone(), ca);
    assert_eq!(connected(&a, &b).unwrap().len(), 3);

    // Agents would not use a cluster of that name that is connected later.
    a.described.borrow_mut().drained_peers = ["b", "c"].map(str::to_owned).into();
    let (one, other) = (side(&a).unwrap(), side(&b).unwrap());
    assert_eq!(leave(&one, &name("b"), true).unwrap().len(), 3);
    assert!(side(&a).unwrap().has(&name("b")), "a dry run changes nothing");
    assert_eq!(leave(&one, &name("b"), false).unwrap().len(), 3);
    assert_eq!(a.described.borrow().drained_peers, ["c"]);
    assert_eq!(leave(&other, &name("a"), false).unwrap().len(), 2);
    assert!(!side(&a).unwrap().has(&name("b")) && !side(&b).unwrap().has(&name("a")));
    assert_eq!(leave(&side(&a).unwrap(), &name("b"), false).unwrap(), Vec::<String>::new());
}

#[test]
fn a_command_that_is_stopped_anywhere_goes_on() {
    for (in_a, in_b) in [(0, 9), (1, 0), (1, 9), (2, 0), (2, 1), (3, 1), (3, 2)] {
        let (a, b) = (Fake::new("a", 1), Fake::new("b", 2));
        a.budget.set(in_a);
        b.budget.set(in_b);
        assert!(connected(&a, &b).is_err(), "{in_a} {in_b}");
        a.budget.set(9);
        b.budget.set(9);
        connected(&a, &b).unwrap();
        assert_eq!(connected(&a, &b).unwrap(), Vec::<String>::new(), "{in_a} {in_b}");
    }
}

#[test]
fn what_cannot_work_is_refused_before_anything_changes() {
    type Change = fn(&mut Description);
    let cases: [(Change, &str); 7] = [
        (|b| b.name = "a".into(), "both clusters are called a"),
        (|b| b.id = 1, "both have the ID 1"),
        (|b| b.max_connected_clusters = 511, "maxConnectedClusters"),
        (|b| b.pod_cidrs = vec!["10.1.0.0/24".parse().unwrap()], "overlaps the pod range"),
        (|b| b.pod_cidrs.clear(), "CLUSTERMESH_POD_CIDR"),
        (|b| b.etcd.replicas.clear(), "--destination-endpoint ADDRESS:PORT"),
        (|b| b.secret.bytes = SECRET_LIMIT - PEER_SIZE + 1, "about 255 peers"),
    ];
    for (change, says) in cases {
        let (a, b) = (Fake::new("a", 1), Fake::new("b", 2));
        change(&mut b.described.borrow_mut());
        a.budget.set(0);
        b.budget.set(0);
        let error = format!("{:#}", connected(&a, &b).unwrap_err());
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn one_side_that_is_gone_is_given_up_by_its_name() {
    let (a, b) = (Fake::new("a", 1), Fake::new("b", 2));
    connected(&a, &b).unwrap();
    let why = anyhow::anyhow!("it does not answer");
    let refused = leave_gone(&side(&a).unwrap(), "kind-b", &why, false).unwrap_err().to_string();
    assert!(refused.contains("it has: b"), "{refused}");
    assert_eq!(leave_gone(&side(&a).unwrap(), "b", &why, false).unwrap().len(), 2);
    assert!(!side(&a).unwrap().has(&name("b")));
}

#[test]
fn the_secret_is_printed_as_yaml() {
    let (a, b) = (Fake::new("a", 1), Fake::new("b", 2));
    connected(&a, &b).unwrap();
    let text = document(&a, false).unwrap();
    let secret: k8s_openapi::api::core::v1::Secret = serde_saphyr::from_str(&text).unwrap();
    let data = secret.data.unwrap();
    let file = String::from_utf8(data["b"].0.clone()).unwrap();
    assert_eq!(&PeerFile::parse(&file).unwrap(), side(&a).unwrap().facts.peer(&name("b")).unwrap());
    assert_eq!(data.len(), 3);
}
