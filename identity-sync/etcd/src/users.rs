//! Users, roles and their permissions.

use std::collections::BTreeSet;

use etcd_client::{AuthClient, PermissionType, RoleRevokePermissionOptions, UserAddOptions};
use mesh_follow::KeyRange;

use crate::error::EtcdError;

/// The etcd's users and roles. Needs a connection that may change them.
pub struct Users {
    client: AuthClient,
}

/// A permission of a role. etcd has write permissions too; of our roles only root writes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    /// Read from a key up to another.
    Read {
        /// The first key.
        start: Vec<u8>,
        /// The first key after the range.
        end: Vec<u8>,
    },
    /// Anything else, found and not given by us.
    Other {
        /// The first key.
        start: Vec<u8>,
        /// The first key after the range.
        end: Vec<u8>,
    },
}

impl Permission {
    /// Reading a span.
    pub fn read(span: KeyRange) -> Self {
        Self::Read { start: span.start, end: span.end }
    }
}

impl Users {
    pub(crate) fn new(client: AuthClient) -> Self {
        Self { client }
    }

    /// All roles.
    pub async fn roles(&mut self) -> Result<BTreeSet<String>, EtcdError> {
        Ok(self.client.role_list().await?.roles().iter().cloned().collect())
    }

    /// All users.
    pub async fn users(&mut self) -> Result<BTreeSet<String>, EtcdError> {
        Ok(self.client.user_list().await?.users().iter().cloned().collect())
    }

    /// A user's roles.
    pub async fn roles_of(&mut self, user: &str) -> Result<BTreeSet<String>, EtcdError> {
        Ok(self.client.user_get(user).await?.roles().iter().cloned().collect())
    }

    /// A role's permissions.
    pub async fn permissions_of(&mut self, role: &str) -> Result<BTreeSet<Permission>, EtcdError> {
        let answer = self.client.role_get(role).await?;
        let permission = |p: etcd_client::Permission| {
            let (start, end) = (p.key().to_vec(), p.range_end().to_vec());
            // A single key has no end; as a span it ends right after itself.
            let end = if end.is_empty() { [start.as_slice(), &[0]].concat() } else { end };
            match p.get_type() == PermissionType::Read as i32 {
                true => Permission::Read { start, end },
                false => Permission::Other { start, end },
            }
        };
        Ok(answer.permissions().into_iter().map(permission).collect())
    }

    /// Makes a role.
    pub async fn add_role(&mut self, role: &str) -> Result<(), EtcdError> {
        self.client.role_add(role).await?;
        Ok(())
    }

    /// Gives a role a permission.
    pub async fn grant(&mut self, role: &str, permission: &Permission) -> Result<(), EtcdError> {
        let Permission::Read { start, end } = permission else { return Ok(()) };
        let permission =
            etcd_client::Permission::read(start.as_slice()).with_range_end(end.as_slice());
        self.client.role_grant_permission(role, permission).await?;
        Ok(())
    }

    /// Takes a permission from a role.
    pub async fn revoke(&mut self, role: &str, permission: &Permission) -> Result<(), EtcdError> {
        let (Permission::Read { start, end } | Permission::Other { start, end }) = permission;
        let options = RoleRevokePermissionOptions::new().with_range_end(end.as_slice());
        self.client.role_revoke_permission(role, start.as_slice(), Some(options)).await?;
        Ok(())
    }

    /// Creates a user without a password: its certificate identifies it.
    pub async fn add_user(&mut self, user: &str) -> Result<(), EtcdError> {
        self.client.user_add(user, "", Some(UserAddOptions::new().with_no_pwd())).await?;
        Ok(())
    }

    /// Removes a user.
    pub async fn remove_user(&mut self, user: &str) -> Result<(), EtcdError> {
        self.client.user_delete(user).await?;
        Ok(())
    }

    /// Gives a user a role.
    pub async fn grant_role(&mut self, user: &str, role: &str) -> Result<(), EtcdError> {
        self.client.user_grant_role(user, role).await?;
        Ok(())
    }

    /// Takes a role from a user.
    pub async fn revoke_role(&mut self, user: &str, role: &str) -> Result<(), EtcdError> {
        self.client.user_revoke_role(user, role).await?;
        Ok(())
    }

    /// Whether authentication is on. Not every etcd has a request for that: asked to authenticate a user without a
    /// password, each answers whether it would at all.
    pub async fn is_enabled(&mut self) -> Result<bool, EtcdError> {
        match self.client.authenticate("root".into(), String::new()).await {
            Ok(_) => Ok(true),
            Err(etcd_client::Error::GRpcStatus(status)) => {
                let reported = |words| status.message().contains(words);
                match (reported("authentication is not enabled"), reported("authentication failed"))
                {
                    (true, _) => Ok(false),
                    (_, true) => Ok(true),
                    _ => Err(status.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// From now on every client may do everything.
    pub async fn disable(&mut self) -> Result<(), EtcdError> {
        self.client.auth_disable().await?;
        Ok(())
    }

    /// From now on every request needs a user that may make it. Nothing happens where that is so already.
    pub async fn enable(&mut self) -> Result<(), EtcdError> {
        self.client.auth_enable().await?;
        Ok(())
    }
}
