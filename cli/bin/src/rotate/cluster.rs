//! The cluster whose certificates are rotated, and the clusters that follow it.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail};
use mesh_certs::{
    BACKDATED, Bundle, Ca, ClusterPki, CredentialFiles, Details, Profile, admin_user, details,
    local_user, request,
};
use mesh_files::{Access, write_atomic, write_together};
use mesh_model::ClusterName;
use mesh_wire::users_file::{REMOTE_ROLE, remote_user};

use crate::{
    args::RotateArgs,
    connect::Side,
    contexts,
    rotate::plan::{Facts, Leaf, PeerFacts, Todo},
};

/// The criterion by which certificates are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Those that the new CA did not sign.
    NewCa,
    /// Of the selected ones, those that were not issued recently.
    Young { server: bool, clients: bool },
}

/// The cluster whose certificates are rotated.
pub(crate) struct Cluster {
    pub(crate) local: Side,
    /// The clusters that have a user here, with their directories if those are at hand.
    peers: BTreeMap<ClusterName, Option<Side>>,
    done: Vec<String>,
    lifetime: Duration,
    min_age: Duration,
}

/// The file name of the new CA during a rotation.
const NEXT: &str = "ca-next";

/// Whether a directory is that of a cluster that follows this one. It was found by its context's name, and another cluster
/// may have the same name.
fn follows_us(local: &Side, directory: &Path) -> bool {
    let Ok(side) = Side::read(directory, false) else { return false };
    let grant = side.peer(local.name()).and_then(|peer| peer.clustermesh.as_ref());
    grant.is_some_and(|grant| grant.uuid.is_some() && grant.uuid == local.facts.uuid)
}

impl Cluster {
    /// Reads the cluster and those that follow it. Locks them if they are to be changed.
    pub(crate) fn read(args: &RotateArgs) -> anyhow::Result<Self> {
        let directory = contexts::find(&args.context)?.directory;
        let local = Side::read(&directory, false)?;
        let mut directories = BTreeMap::from([(directory.clone(), local.name().clone())]);
        let mut at_hand = BTreeMap::new();
        for context in &args.peer_contexts {
            let found = contexts::find(context)?.directory;
            at_hand.insert(Side::read(&found, false)?.name().clone(), found);
        }
        let followers = local.users.users.iter().filter(|user| user.role == REMOTE_ROLE);
        let followers = followers.filter_map(|user| user.name.strip_prefix("remote-"));
        let followers: Vec<ClusterName> =
            followers.filter_map(|name| ClusterName::new(name).ok()).collect();
        for name in &followers {
            if !at_hand.contains_key(name)
                && let Ok(context) = contexts::find(name.as_str())
                && follows_us(&local, &context.directory)
            {
                at_hand.insert(name.clone(), context.directory);
            }
            if let Some(directory) = at_hand.get(name) {
                directories.insert(directory.clone(), name.clone());
            }
        }
        // In a fixed order, so that two commands never wait for each other.
        let mut sides = BTreeMap::new();
        for (directory, name) in directories {
            let side = Side::read(&directory, !args.dry_run)?;
            if *side.name() != name {
                bail!("{} is of a cluster {}, not {name}", directory.display(), side.name());
            }
            sides.insert(name, side);
        }
        let local = sides.remove(local.name()).context("the cluster itself")?;
        // A cluster that has a user but does not follow needs no certificate.
        let follows = |side: &Side| side.peer(local.name()).is_some();
        let peers = followers.into_iter().map(|name| (name.clone(), sides.remove(&name)));
        let peers = peers.filter(|(_, side)| side.as_ref().is_none_or(follows)).collect();
        let lifetime = args.lifetime.unwrap_or(Ca::ISSUED_LIFETIME);
        let (done, min_age) = (args.peers_done.clone(), args.min_age);
        Ok(Self { local, peers, done, lifetime, min_age })
    }

    fn pki(&self) -> ClusterPki {
        self.local.pki()
    }

    /// The trusted CAs.
    pub(crate) fn trusted(&self) -> anyhow::Result<Bundle> {
        bundle(&self.pki().certificate("ca"))
    }

    /// The new CA, from its creation until the old one is no longer trusted.
    pub(crate) fn next(&self) -> anyhow::Result<Option<Bundle>> {
        let now = SystemTime::now();
        let next = self.pki().certificate(NEXT);
        if let (Ok(certificate), Ok(key)) =
            (fs::read_to_string(&next), fs::read_to_string(self.pki().key(NEXT)))
            && Ca::load(&certificate, &key, now).is_ok()
        {
            return Ok(Some(Bundle::parse(&certificate)?));
        }
        Ok(self.signer().filter(|_| self.trusted().is_ok_and(|trusted| trusted.len() > 1)))
    }

    /// The CA that signs; `None` if it has expired, in which case a rotation is still possible.
    fn signer(&self) -> Option<Bundle> {
        let ca = self.pki().ca(SystemTime::now()).ok()?;
        Bundle::parse(ca.certificate()).ok()
    }

    /// The state of all files.
    pub(crate) fn facts(&self, aim: Aim) -> anyhow::Result<Facts> {
        let now = SystemTime::now();
        let (trusted, next) = (self.trusted()?, self.next()?);
        let is_next = |bundle: &Bundle| next.as_ref() == Some(bundle);
        let stale = |files: &Files, clients: bool| match aim {
            Aim::NewCa => !next.as_ref().is_some_and(|next| files.by(next)),
            Aim::Young { server, clients: wanted } => {
                (if clients { wanted } else { server }) && !files.young(now, self.min_age)
            }
        };
        let leaves = Leaf::ALL.into_iter().filter(|leaf| {
            let files = Files {
                certificate: self.pki().certificate(leaf.name()),
                key: self.pki().key(leaf.name()),
            };
            stale(&files, *leaf != Leaf::Server)
        });
        let peers = self.peers.iter().map(|(name, side)| {
            let mut facts = PeerFacts {
                name: name.to_string(),
                done: self.done.iter().any(|done| done == name.as_str()),
                stale: aim != Aim::Young { server: true, clients: false },
                ..PeerFacts::default()
            };
            if let Some(side) = side {
                let files = self.files_of(side)?;
                let trusts = bundle(&files.ca).unwrap_or_default();
                facts.at_hand = true;
                facts.trusts = trusts.includes(&trusted)
                    && next.as_ref().is_some_and(|next| trusts.includes(next));
                facts.trusts |= is_next(&trusts);
                facts.alone = trusts == *next.as_ref().unwrap_or(&trusted);
                let files = Files { certificate: files.certificate, key: files.key };
                facts.stale = stale(&files, true);
            }
            anyhow::Ok(facts)
        });
        Ok(Facts {
            begun: next.is_some(),
            trusted: next.as_ref().is_some_and(|next| trusted.includes(next)),
            signs: self.signer().is_some_and(|signer| is_next(&signer)),
            alone: is_next(&trusted),
            leftovers: self.pki().certificate(NEXT).exists() || self.pki().key(NEXT).exists(),
            stale: leaves.collect(),
            peers: peers.collect::<anyhow::Result<_>>()?,
        })
    }

    /// Carries out a step; it is no error if it was carried out already.
    pub(crate) fn carry_out(&self, todo: &Todo) -> anyhow::Result<()> {
        let (pki, now) = (self.pki(), SystemTime::now());
        let next = || self.next()?.context("there is no CA that takes over");
        match todo {
            Todo::NewCa => {
                let trusted = self.trusted()?.to_pem();
                let name = self.local.name().as_str();
                let (_, made) = Ca::succeed(name, &trusted, now, Ca::LIFETIME)?;
                pki.write(NEXT, &made)?;
            }
            Todo::Trust => {
                put(&pki.certificate("ca"), &self.trusted()?.with(&next()?).to_pem(), Access::All)?;
            }
            Todo::PeerTrusts(peer) => {
                let ca = self.files_of(self.peer(peer)?)?.ca;
                put(&ca, &self.trusted()?.to_pem(), Access::All)?;
            }
            Todo::Sign => {
                let key = read(&pki.key(NEXT))?;
                put(&pki.key("ca"), &key, Access::Owner)?;
            }
            Todo::Issue(leaf) => {
                let profile = self.profile(*leaf)?;
                let issued = pki.ca(now)?.issue(&profile, now, self.lifetime)?;
                pki.write(leaf.name(), &issued)?;
            }
            Todo::IssueFor(peer) => {
                let files = self.files_of(self.peer(peer)?)?;
                let user = remote_user(&ClusterName::new(peer)?);
                let asked = request(&user)?;
                let certificate =
                    pki.ca(now)?.sign(&asked.certificate, &user, now, self.lifetime)?;
                let both = [
                    (files.key.as_path(), asked.key.as_bytes(), Access::Owner),
                    (files.certificate.as_path(), certificate.as_bytes(), Access::All),
                ];
                write_together(&both).with_context(|| files.certificate.display().to_string())?;
            }
            Todo::PeerForgets(peer) => {
                let ca = self.files_of(self.peer(peer)?)?.ca;
                let newest = self.next()?.map_or_else(|| self.trusted(), Ok)?;
                put(&ca, &newest.to_pem(), Access::All)?;
            }
            Todo::Forget => put(&pki.certificate("ca"), &next()?.to_pem(), Access::All)?,
            Todo::Clean => {
                for path in [pki.key(NEXT), pki.certificate(NEXT)] {
                    match fs::remove_file(&path) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => {
                            return Err(error).with_context(|| path.display().to_string());
                        }
                        _ => {}
                    }
                }
            }
            Todo::AskPeer(_)
            | Todo::AskPeerForRequest(_)
            | Todo::EtcdTrusts
            | Todo::EtcdForgets => {}
        }
        Ok(())
    }

    fn peer(&self, name: &str) -> anyhow::Result<&Side> {
        let found = self.peers.iter().find(|(peer, _)| peer.as_str() == name);
        found.and_then(|(_, side)| side.as_ref()).with_context(|| format!("{name} is not at hand"))
    }

    /// The files with which a peer connects to this cluster's etcd.
    fn files_of(&self, side: &Side) -> anyhow::Result<CredentialFiles> {
        let file = side.peer(self.local.name()).context("it follows this cluster")?;
        let folder = side.directory.peers();
        let path = |path: &Option<PathBuf>, what: &str| {
            let path = path.as_ref().map(|path| folder.join(path));
            path.with_context(|| {
                format!("{}: it names no {what}", side.paths(self.local.name()).file.display())
            })
        };
        Ok(CredentialFiles {
            ca: path(&file.trusted_ca_file, "trusted-ca-file")?,
            certificate: path(&file.cert_file, "cert-file")?,
            key: path(&file.key_file, "key-file")?,
        })
    }

    /// The profile of a new certificate. A server's names are those in its present certificate.
    fn profile(&self, leaf: Leaf) -> anyhow::Result<Profile> {
        let name = self.local.name().as_str();
        let user = match leaf {
            Leaf::Admin => admin_user(name),
            Leaf::Local => local_user(name),
            Leaf::Server => {
                let path = self.pki().certificate(leaf.name());
                let Details { common_name, names, .. } = first(&path)?;
                let mut dns = vec![common_name.clone()];
                let mut addresses: Vec<IpAddr> = Vec::new();
                for name in names.into_iter().filter(|name| *name != common_name) {
                    match name.parse() {
                        Ok(address) => addresses.push(address),
                        Err(_) => dns.push(name),
                    }
                }
                return Ok(Profile::Server { names: dns, addresses });
            }
        };
        Ok(Profile::Client { user })
    }
}

/// A certificate and its key.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    /// Whether they match each other, and are signed by one of these CAs.
    fn by(&self, cas: &Bundle) -> bool {
        self.sound() && read(&self.certificate).is_ok_and(|text| cas.signed(&text))
    }

    /// Whether they match each other, were issued less than `age` ago, and do not expire soon.
    fn young(&self, now: SystemTime, age: Duration) -> bool {
        self.sound() && first(&self.certificate).is_ok_and(|found| is_young(&found, now, age))
    }

    fn sound(&self) -> bool {
        let (Ok(certificate), Ok(key)) = (read(&self.certificate), read(&self.key)) else {
            return false;
        };
        mesh_certs::belong_together(&certificate, &key)
    }
}

/// Whether a certificate was issued less than `age` ago, and does not expire soon.
pub(super) fn is_young(certificate: &Details, now: SystemTime, age: Duration) -> bool {
    certificate.not_before + BACKDATED + age > now && !certificate.is_expiring(now)
}

fn first(path: &Path) -> anyhow::Result<Details> {
    let all = details(&read(path)?).with_context(|| path.display().to_string())?;
    all.into_iter().next().with_context(|| path.display().to_string())
}

fn bundle(path: &Path) -> anyhow::Result<Bundle> {
    Bundle::parse(&read(path)?).with_context(|| path.display().to_string())
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

fn put(path: &Path, text: &str, access: Access) -> anyhow::Result<()> {
    write_atomic(path, text.as_bytes(), access).with_context(|| path.display().to_string())
}
