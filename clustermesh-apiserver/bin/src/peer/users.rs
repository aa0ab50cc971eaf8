//! The etcd users of peers, and their certificates.

use std::{fs, time::SystemTime};

use anyhow::Context as _;
use mesh_certs::{Bundle, Ca, ClusterPki};
use mesh_model::ClusterName;
use mesh_wire::{
    peering::Signed,
    users_file::{REMOTE_ROLE, User, UsersFile, remote_user},
};

use super::{CONTENDED, Local, contended};

impl Local {
    /// Adds the user of a peer, and signs its request if there is one: a certificate for this user, whatever it asks for.
    pub(super) async fn sign(
        &self,
        peer: &ClusterName,
        request: Option<&str>,
    ) -> anyhow::Result<Signed> {
        let name = remote_user(peer);
        let pki = ClusterPki::new(&self.directory.pki());
        let now = SystemTime::now();
        let certificate = match request {
            Some(request) => Some(pki.ca(now)?.sign(request, &name, now, Ca::ISSUED_LIFETIME)?),
            None => None,
        };
        let ca = self.trusted()?.to_pem();
        let wanted = User { name: name.clone(), role: REMOTE_ROLE.into() };
        self.change_users(|users| {
            let had = users.users.contains(&wanted);
            if !had {
                users.users.retain(|user| user.name != name);
                users.users.push(wanted.clone());
            }
            !had
        })
        .await?;
        Ok(Signed { certificate, ca })
    }

    /// Removes the user of a peer; returns whether there was one.
    pub(super) async fn remove_user(&self, peer: &ClusterName) -> anyhow::Result<bool> {
        let name = remote_user(peer);
        self.change_users(|users| {
            let before = users.users.len();
            users.users.retain(|user| user.name != name);
            users.users.len() != before
        })
        .await
    }

    /// The users of peers. Without a file there are none.
    pub(super) async fn users_now(&self) -> anyhow::Result<(UsersFile, u64)> {
        let found = self.users.read().await?;
        let users = UsersFile::parse(found.value.as_deref().unwrap_or_default());
        let users = users.with_context(|| {
            let namespace = self.connection.namespace();
            format!("ConfigMap {namespace}/clustermesh-users: users.yaml: correct it first")
        })?;
        Ok((users, found.version))
    }

    /// Changes the users; `change` returns whether it did. Returns that.
    async fn change_users(&self, change: impl Fn(&mut UsersFile) -> bool) -> anyhow::Result<bool> {
        for _ in 0..CONTENDED {
            let (mut users, version) = self.users_now().await?;
            if !change(&mut users) {
                return Ok(false);
            }
            if self.users.write(&users.to_yaml()?, version).await?.is_some() {
                return Ok(true);
            }
        }
        contended("ConfigMap clustermesh-users")
    }

    /// The certificates of the CA. While it is rotated, there are two.
    pub(super) fn trusted(&self) -> anyhow::Result<Bundle> {
        let path = ClusterPki::new(&self.directory.pki()).certificate("ca");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Bundle::parse(&text).with_context(|| path.display().to_string())
    }
}
