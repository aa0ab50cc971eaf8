//! The changes that a connection needs, as steps that can be printed before they are made.

use std::{
    fmt, fs, io,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use mesh_certs::{Bundle, Ca, CredentialFiles, Details, details, request};
use mesh_files::{Access, write_atomic};
use mesh_model::ClusterName;
use mesh_wire::users_file::{REMOTE_ROLE, User, UsersFile, remote_user};

use crate::{
    connect::{
        check::known_uuid,
        facts::{addresses, peer_file},
        side::{PeerPaths, Side},
    },
    drain::here,
};

/// A change to a cluster directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A file is written.
    Write {
        /// The name of the cluster with the directory.
        cluster: String,
        /// The file.
        path: PathBuf,
        /// Its new content.
        content: String,
        /// Who may read it.
        access: Access,
        /// What the file is, for the output.
        what: String,
    },
    /// A file is removed.
    Remove {
        /// The name of the cluster with the directory.
        cluster: String,
        /// The file.
        path: PathBuf,
        /// What the file was, for the output.
        what: String,
    },
}

/// A certificate that expires sooner is replaced.
pub(super) const RENEW_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);

/// The steps that make `source` follow `destination`; none if it does already.
pub(crate) fn plan_connect(source: &Side, destination: &Side) -> anyhow::Result<Vec<Step>> {
    let paths = source.paths(destination.name());
    let user = remote_user(source.name());
    let mut steps = Vec::new();
    let mut users = destination.users.clone();
    let wanted = User { name: user.clone(), role: REMOTE_ROLE.into() };
    if !users.users.contains(&wanted) {
        users.users.retain(|other| other.name != user);
        users.users.push(wanted);
        steps.push(write_users(destination, &users, format!("users with {user}"))?);
    }
    steps.extend(credentials(source, destination, &paths, &user)?);
    let file = peer_file(&destination.facts, source.peer(destination.name()));
    if source.peer(destination.name()) != Some(&file) {
        // Last: it makes the agents connect.
        steps.push(Step::Write {
            cluster: source.name().to_string(),
            path: paths.file,
            content: file.to_yaml()?,
            access: Access::All,
            what: format!(
                "peer {} at {}",
                destination.name(),
                addresses(&destination.facts.settings)
            ),
        });
    }
    Ok(steps)
}

/// The steps that remove the connection from `source` to `destination`.
pub(crate) fn plan_disconnect(source: &Side, destination: &Side) -> anyhow::Result<Vec<Step>> {
    let mut steps = forget_peer(source, destination.name())?;
    steps.extend(forget_user(destination, source.name())?);
    Ok(steps)
}

/// The steps that remove one side of a connection in both directions, where the other side is not at hand.
pub(crate) fn plan_leave(side: &Side, peer: &ClusterName) -> anyhow::Result<Vec<Step>> {
    let mut steps = forget_peer(side, peer)?;
    steps.extend(forget_user(side, peer)?);
    Ok(steps)
}

/// Removes from `source` what it needs to follow a peer.
fn forget_peer(source: &Side, peer: &ClusterName) -> anyhow::Result<Vec<Step>> {
    let paths = source.paths(peer);
    let cluster = source.name().to_string();
    // The peer file is removed first: without it the agents do not use the other files.
    let files = [
        (paths.file, format!("peer {peer}")),
        (paths.certificate, "certificate".into()),
        (paths.key, "key".into()),
        (paths.ca, "CA".into()),
    ];
    let files = files.into_iter().filter(|(path, _)| path.exists());
    let mut steps: Vec<Step> =
        files.map(|(path, what)| Step::Remove { cluster: cluster.clone(), path, what }).collect();
    // If a peer of that name is connected later, it must not be drained.
    let (path, mut drained) = here::read(source.directory.path())?;
    if drained.clusters.remove(peer) {
        let (content, access) = (drained.to_yaml()?, Access::All);
        let what = format!("drained peers without {peer}");
        steps.push(Step::Write { cluster, path, content, access, what });
    }
    Ok(steps)
}

/// Removes the user with which a peer reads the etcd of `destination`.
fn forget_user(destination: &Side, peer: &ClusterName) -> anyhow::Result<Vec<Step>> {
    let user = remote_user(peer);
    let mut users = destination.users.clone();
    users.users.retain(|other| other.name != user);
    Ok(match users == destination.users {
        true => Vec::new(),
        false => vec![write_users(destination, &users, format!("users without {user}"))?],
    })
}

/// Writes the key, certificate and CA that `source` needs, unless those it has are usable.
fn credentials(
    source: &Side,
    destination: &Side,
    paths: &PeerPaths,
    user: &str,
) -> anyhow::Result<Vec<Step>> {
    let now = SystemTime::now();
    let ca = destination.pki().ca(now)?;
    // While the CA is being rotated, two are trusted.
    let trusted = destination.pki().certificate("ca");
    let trusted = fs::read_to_string(&trusted).with_context(|| trusted.display().to_string())?;
    let trusted = Bundle::parse(&trusted)?;
    // If the destination was rebuilt, the credentials for the previous cluster of that name are useless.
    let replaced = known_uuid(&source.facts, &destination.facts)
        .is_some_and(|it| Some(it) != destination.facts.uuid);
    if !replaced && usable(paths, &ca, &trusted, user, now) {
        return Ok(Vec::new());
    }
    let asked = request(user)?;
    let certificate = ca.sign(&asked.certificate, user, now, Ca::ISSUED_LIFETIME)?;
    let write = |path: &PathBuf, content: &str, access, what: String| Step::Write {
        cluster: source.name().to_string(),
        path: path.clone(),
        content: content.into(),
        access,
        what,
    };
    Ok(vec![
        write(&paths.key, &asked.key, Access::Owner, format!("key of {user}")),
        write(
            &paths.certificate,
            &certificate,
            Access::All,
            format!("certificate of {user}, signed by {}", destination.name()),
        ),
        write(&paths.ca, &trusted.to_pem(), Access::All, format!("CA of {}", destination.name())),
    ])
}

/// Whether credentials are complete, for that user, signed by that CA, and do not expire soon.
fn usable(paths: &PeerPaths, ca: &Ca, trusted: &Bundle, user: &str, now: SystemTime) -> bool {
    let files = CredentialFiles {
        ca: paths.ca.clone(),
        certificate: paths.certificate.clone(),
        key: paths.key.clone(),
    };
    let Ok(credentials) = files.load(now) else { return false };
    let read = |path| fs::read_to_string(path).ok();
    let same_ca =
        read(&paths.ca).and_then(|text| Bundle::parse(&text).ok()).as_ref() == Some(trusted);
    let signer = Bundle::parse(ca.certificate());
    let ours = read(&paths.certificate).is_some_and(|text| {
        let user_is = |all: Vec<_>| all.first().is_some_and(|d: &Details| d.common_name == user);
        signer.is_ok_and(|signer| signer.signed(&text)) && details(&text).is_ok_and(user_is)
    });
    same_ca && ours && credentials.not_after() > now + RENEW_BEFORE
}

fn write_users(side: &Side, users: &UsersFile, what: String) -> anyhow::Result<Step> {
    Ok(Step::Write {
        cluster: side.name().to_string(),
        path: side.directory.users_file(),
        content: users.to_yaml()?,
        access: Access::All,
        what,
    })
}

impl Step {
    /// Makes the change; it is no error if it is made already.
    pub(crate) fn carry_out(self) -> anyhow::Result<()> {
        match self {
            Self::Write { path, content, access, .. } => {
                if let Some(folder) = path.parent() {
                    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
                }
                write_atomic(&path, content.as_bytes(), access)
                    .with_context(|| path.display().to_string())
            }
            Self::Remove { path, .. } => match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(error).with_context(|| path.display().to_string())
                }
                _ => Ok(()),
            },
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { cluster, path, what, .. } => {
                write!(f, "{cluster}: write {what} ({})", path.display())
            }
            Self::Remove { cluster, path, what } => {
                write!(f, "{cluster}: remove {what} ({})", path.display())
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
