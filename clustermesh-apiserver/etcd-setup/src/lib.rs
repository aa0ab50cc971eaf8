//! Sets up users and roles in a cluster's etcd (`docs/wire.md`, "Users and roles").
//!
//! The user of the cluster's apiservers is `admin-<cluster>`, that of its agents is `local-<cluster>`, and that of a peer is
//! `remote-<peer>`. The name is the common name of the certificate; there are no passwords.
//!
//! Until authentication is on, any client may do anything, and could stay root permanently: by its own user, or by a
//! password on one of our users, which etcd does not show. So [`set_up_privately`] is for an etcd that no other client can
//! reach yet. [`keep`] is for a running etcd: it may be repeated at any time, and changes only what differs.

mod desired;

use std::{collections::BTreeSet, fmt};

use mesh_etcd::{EtcdError, Users};

pub use desired::{Desired, RefusedUser};

/// A user that is neither desired nor allowed, and has a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownUser {
    /// Its name.
    pub name: String,
    /// Its roles.
    pub roles: BTreeSet<String>,
}

/// What [`keep`] changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// What differed and was repaired, one message each.
    pub changed: Vec<String>,
    /// Unknown users, which were removed.
    pub unknown: Vec<UnknownUser>,
    /// Whether authentication was off.
    pub was_unprotected: bool,
}

/// Why an etcd is not set up.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// A request to the etcd failed.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// It has unknown users with a role.
    #[error(
        "it has unknown users: {}. If they are intended, allow them with --etcd-extra-users. If not, another client had control of this etcd: move its data away, and the apiserver fills a new one",
        shown(.0)
    )]
    Unknown(Vec<UnknownUser>),
}

/// Sets up users, roles and permissions in an etcd that no other client can reach, and turns authentication on.
///
/// All desired users that exist are removed and created again, without passwords.
///
/// # Errors
/// If a request fails, or the etcd has unknown users with a role; then nothing is changed.
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

/// Repairs users, roles and permissions in a running etcd, removes users of former peers and unknown users, and turns
/// authentication on if it is off.
///
/// # Errors
/// If a request fails.
pub async fn keep(users: &mut Users, desired: &Desired) -> Result<Kept, EtcdError> {
    let mut changed = BTreeSet::new();
    let unknown = unknown(users, desired).await?;
    for user in &unknown {
        users.remove_user(&user.name).await?;
    }
    let was_unprotected = !users.is_enabled().await?;
    let removed = match was_unprotected {
        // Any client may have set passwords.
        true => remove_known(users, desired).await?,
        false => BTreeSet::new(),
    };
    put_right(users, desired, &removed, &mut changed).await?;
    if was_unprotected {
        users.enable().await?;
    }
    Ok(Kept { changed: changed.into_iter().collect(), unknown, was_unprotected })
}

/// Unknown users with a role.
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

/// Removes all desired users that exist, so that they are created again. Returns them.
async fn remove_known(users: &mut Users, desired: &Desired) -> Result<BTreeSet<String>, EtcdError> {
    let mut known = users.users().await?;
    known.retain(|user| desired.users.contains_key(user));
    for user in &known {
        users.remove_user(user).await?;
    }
    Ok(known)
}

/// Repairs roles, permissions and users, and adds the differences to `changed`. The users in `removed` are missing because of
/// [`remove_known`], so they are not differences.
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
            changed.insert(format!("the role {role} lacked a permission"));
        }
        for permission in granted.difference(permissions) {
            users.revoke(role, permission).await?;
            changed.insert(format!("the role {role} had a permission too many"));
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
        // It is not known whether this peer still exists, but a peer's user must only have the role of peers.
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
