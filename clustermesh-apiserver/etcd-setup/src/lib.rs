//! Who may what in a cluster's etcd (`docs/wire.md`, "Users and roles").
//!
//! The cluster's own writers are `admin-<cluster>`, its agents `local-<cluster>`, and each peer is `remote-<peer>`: the
//! name is the common name of the certificate, there are no passwords. [`set_up`] makes it so and may be repeated at any
//! time: it changes only what differs, and switches authentication on last.

mod desired;

use std::collections::BTreeSet;

use mesh_etcd::{EtcdError, Users};

pub use desired::{Desired, RefusedUser};

/// Gives the etcd the desired users, roles and permissions, takes away what a peer that is gone had, and switches
/// authentication on. Users that are neither desired nor a peer's are left alone. Returns what was not as it should be,
/// in words.
pub async fn set_up(users: &mut Users, desired: &Desired) -> Result<Vec<String>, EtcdError> {
    let mut changed = Vec::new();
    let existing = users.roles().await?;
    for (role, permissions) in &desired.roles {
        if !existing.contains(role) {
            users.add_role(role).await?;
            changed.push(format!("there was no role {role}"));
        }
        let granted = users.permissions_of(role).await?;
        for permission in permissions.difference(&granted) {
            users.grant(role, permission).await?;
            changed.push(format!("the role {role} could not read all it may"));
        }
        for permission in granted.difference(permissions) {
            users.revoke(role, permission).await?;
            changed.push(format!("the role {role} could do more than it may"));
        }
    }
    let existing = users.users().await?;
    for (user, role) in &desired.users {
        if !existing.contains(user) {
            users.add_user(user).await?;
            changed.push(format!("there was no user {user}"));
        }
        let wanted = BTreeSet::from([role.clone()]);
        let granted = users.roles_of(user).await?;
        for role in wanted.difference(&granted) {
            users.grant_role(user, role).await?;
            changed.push(format!("the user {user} did not have the role {role}"));
        }
        for role in granted.difference(&wanted) {
            users.revoke_role(user, role).await?;
            changed.push(format!("the user {user} had the role {role}"));
        }
    }
    for user in existing.iter().filter(|user| desired::is_peer(user)) {
        if desired.peers_known && !desired.users.contains_key(user) {
            tracing::info!(user, "removing a peer's user");
            users.remove_user(user).await?;
            changed.push(format!("there was a user {user}"));
        }
    }
    if !users.is_enabled().await? {
        users.enable().await?;
        changed.push("authentication was off: everybody could do everything".into());
    }
    changed.dedup();
    Ok(changed)
}
