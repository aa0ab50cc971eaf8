//! Who may what in a cluster's etcd (`docs/wire.md`, "Users and roles").
//!
//! The cluster's writers are `admin-<cluster>`, its agents `local-<cluster>`, and each peer is `remote-<peer>`: the name is
//! the common name of the certificate, there are no passwords.
//!
//! Until authentication is on, a client that reaches an etcd may do anything, and keep root for good: by a user of its
//! own, or by a password on one of ours, which etcd does not show. So [`set_up_privately`] is for an etcd that nothing
//! else can reach yet. [`keep`] is for one that runs: it may be repeated at any time and changes only what differs.

mod desired;

use std::{collections::BTreeSet, fmt};

use mesh_etcd::{EtcdError, Users};

pub use desired::{Desired, RefusedUser};

/// A user that is neither desired nor allowed, and may do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownUser {
    /// Its name.
    pub name: String,
    /// What it may.
    pub roles: BTreeSet<String>,
}

/// What was not as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// What differed, and was put right, in words.
    pub changed: Vec<String>,
    /// Users that were not asked for. They were removed.
    pub unknown: Vec<UnknownUser>,
    /// Authentication was off.
    pub was_unprotected: bool,
}

/// Why an etcd is not set up.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// It failed.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// It has users that were not asked for.
    #[error(
        "it has unknown users: {}. If they are meant, allow them with --etcd-extra-users; if not, a stranger had control of this etcd: move its data away, and the apiserver fills a new one",
        shown(.0)
    )]
    Unknown(Vec<UnknownUser>),
}

/// Gives an etcd that nothing else can reach the desired users, roles and permissions, and switches authentication on.
///
/// All known users are made anew, without passwords, whatever they were before.
///
/// # Errors
/// When the etcd fails, or has unknown users that may do something: it is left as it is.
pub async fn set_up_privately(users: &mut Users, desired: &Desired) -> Result<(), SetUpError> {
    let unknown = unknown(users, desired).await?;
    if !unknown.is_empty() {
        return Err(SetUpError::Unknown(unknown));
    }
    if users.is_enabled().await? {
        // With authentication on, etcd refuses to remove root.
        users.disable().await?;
    }
    let removed = remove_known(users, desired).await?;
    put_right(users, desired, &removed, &mut BTreeSet::new()).await?;
    users.enable().await?;
    Ok(())
}

/// Puts right what differs in an etcd that runs, removes the users of peers that are gone and unknown ones, and switches
/// authentication on where it is off.
///
/// # Errors
/// When the etcd fails.
pub async fn keep(users: &mut Users, desired: &Desired) -> Result<Kept, EtcdError> {
    let mut changed = BTreeSet::new();
    let unknown = unknown(users, desired).await?;
    for user in &unknown {
        users.remove_user(&user.name).await?;
    }
    let was_unprotected = !users.is_enabled().await?;
    let removed = match was_unprotected {
        // A client that reached it may have set passwords.
        true => remove_known(users, desired).await?,
        false => BTreeSet::new(),
    };
    put_right(users, desired, &removed, &mut changed).await?;
    if was_unprotected {
        users.enable().await?;
    }
    Ok(Kept { changed: changed.into_iter().collect(), unknown, was_unprotected })
}

/// Users that were not asked for, and that may do something.
async fn unknown(users: &mut Users, desired: &Desired) -> Result<Vec<UnknownUser>, EtcdError> {
    let mut unknown = Vec::new();
    for name in users.users().await? {
        let known = desired.users.contains_key(&name) || desired.extra.contains(&name);
        if known || desired::is_peer(&name) {
            continue;
        }
        let roles = users.roles_of(&name).await?;
        if !roles.is_empty() {
            unknown.push(UnknownUser { name, roles });
        }
    }
    Ok(unknown)
}

/// Removes all users that are to be made anew.
async fn remove_known(users: &mut Users, desired: &Desired) -> Result<BTreeSet<String>, EtcdError> {
    let mut known = users.users().await?;
    known.retain(|user| desired.users.contains_key(user));
    for user in &known {
        users.remove_user(user).await?;
    }
    Ok(known)
}

/// Makes roles, permissions and users what they should be, and adds to `changed` what was not; that users are not there that
/// we removed ourselves is no news.
async fn put_right(
    users: &mut Users,
    desired: &Desired,
    removed: &BTreeSet<String>,
    changed: &mut BTreeSet<String>,
) -> Result<(), EtcdError> {
    let existing = users.roles().await?;
    for (role, permissions) in &desired.roles {
        if !existing.contains(role) {
            users.add_role(role).await?;
            changed.insert(format!("there was no role {role}"));
        }
        let granted = users.permissions_of(role).await?;
        for permission in permissions.difference(&granted) {
            users.grant(role, permission).await?;
            changed.insert(format!("the role {role} could not read all it may"));
        }
        for permission in granted.difference(permissions) {
            users.revoke(role, permission).await?;
            changed.insert(format!("the role {role} could do more than it may"));
        }
    }
    let existing = users.users().await?;
    for (user, role) in &desired.users {
        if !existing.contains(user) {
            users.add_user(user).await?;
            users.grant_role(user, role).await?;
            if !removed.contains(user) {
                changed.insert(format!("there was no user {user}"));
            }
            continue;
        }
        let granted = users.roles_of(user).await?;
        let wanted = BTreeSet::from([role.clone()]);
        for role in wanted.difference(&granted) {
            users.grant_role(user, role).await?;
            changed.insert(format!("the user {user} did not have the role {role}"));
        }
        for role in granted.difference(&wanted) {
            users.revoke_role(user, role).await?;
            changed.insert(format!("the user {user} had the role {role}"));
        }
    }
    let others = existing.iter().filter(|user| !desired.users.contains_key(*user));
    for user in others.filter(|user| desired::is_peer(user)) {
        if desired.peers_known {
            tracing::info!(user, "removing a peer's user");
            users.remove_user(user).await?;
            changed.insert(format!("there was a user {user}"));
            continue;
        }
        // Whose it is is not known, but what a peer may.
        for role in users.roles_of(user).await?.into_iter().filter(|role| !is_for_peers(role)) {
            users.revoke_role(user, &role).await?;
            changed.insert(format!("the user {user} had the role {role}"));
        }
    }
    Ok(())
}

fn is_for_peers(role: &str) -> bool {
    role == mesh_wire::users_file::REMOTE_ROLE
}

fn shown(users: &[UnknownUser]) -> String {
    users.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

// === impl UnknownUser ===

impl fmt::Display for UnknownUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles: Vec<&str> = self.roles.iter().map(String::as_str).collect();
        write!(f, "{} with role {}", self.name, roles.join(" and "))
    }
}
