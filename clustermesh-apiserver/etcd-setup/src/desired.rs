//! The desired users and roles.

use std::collections::{BTreeMap, BTreeSet};

use mesh_certs::{admin_user, local_user};
use mesh_etcd::Permission;
use mesh_follow::KeyRange;
use mesh_model::ClusterName;
use mesh_wire::{
    key::{CANARIES, CLUSTER_CONFIGS, HEARTBEAT},
    users_file::{REMOTE_ROLE, User, UsersFile},
};

/// The desired users and roles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The permissions of each role.
    pub roles: BTreeMap<String, BTreeSet<Permission>>,
    /// The role of each user.
    pub users: BTreeMap<String, String>,
    /// Whether `users` has all peers. If not, no peer's user is removed.
    pub peers_known: bool,
    /// Users of the administrator, which are not changed.
    pub extra: BTreeSet<String>,
}

/// A user in the users file that is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "user {name:?} with role {role:?} is refused: the user of a peer is remote-<peer> (or remote, with a shared CA) and has the role remote"
)]
pub struct RefusedUser {
    /// Its name.
    pub name: String,
    /// Its role in the file.
    pub role: String,
}

const ROOT: &str = "root";
const LOCAL_ROLE: &str = "local";
const STATE: &str = "cilium/state/";
const CACHE: &str = "cilium/cache/";
const OURS: &str = "clustermesh/";

impl Desired {
    /// The users and roles of a cluster's etcd, with the peers of the users file. Users in the file that are not those of
    /// peers are refused, so the file cannot create users that may write.
    pub fn new(cluster: &ClusterName, file: &UsersFile) -> (Self, Vec<RefusedUser>) {
        let prefixes = |prefixes: &[&str]| -> BTreeSet<Permission> {
            prefixes.iter().map(|prefix| Permission::read(KeyRange::prefix(prefix))).collect()
        };
        let local_canaries = format!("{CANARIES}{cluster}/");
        let mut remote = prefixes(&[HEARTBEAT, STATE, &local_canaries]);
        remote.insert(Permission::read(KeyRange::key(&format!("{CLUSTER_CONFIGS}{cluster}"))));
        let local = prefixes(&[HEARTBEAT, STATE, CACHE, CLUSTER_CONFIGS, CANARIES, OURS]);

        let mut users = BTreeMap::from([
            (ROOT.to_owned(), ROOT.to_owned()),
            (admin_user(cluster.as_str()), ROOT.to_owned()),
            (local_user(cluster.as_str()), LOCAL_ROLE.to_owned()),
        ]);
        let mut refused = Vec::new();
        for User { name, role } in &file.users {
            if is_peer(name) && role == REMOTE_ROLE {
                users.insert(name.clone(), role.clone());
            } else {
                refused.push(RefusedUser { name: name.clone(), role: role.clone() });
            }
        }
        let roles =
            BTreeMap::from([(REMOTE_ROLE.to_owned(), remote), (LOCAL_ROLE.to_owned(), local)]);
        let extra = BTreeSet::new();
        (Self { roles, users, peers_known: true, extra }, refused)
    }
}

/// Whether a user is that of a peer.
pub(crate) fn is_peer(user: &str) -> bool {
    user == REMOTE_ROLE
        || user.strip_prefix("remote-").is_some_and(|peer| ClusterName::new(peer).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_roles_of_a_cluster_with_a_peer() {
        let user = |name: &str, role: &str| User { name: name.into(), role: role.into() };
        let file = UsersFile {
            users: vec![
                user("remote-b", "remote"),
                user("remote", "remote"),
                user("remote-c", "root"),
                user("admin-a", "remote"),
                user("remote-", "remote"),
            ],
        };
        let (desired, refused) = Desired::new(&ClusterName::new("a").unwrap(), &file);
        let users: Vec<_> = desired.users.iter().map(|(u, r)| (u.as_str(), r.as_str())).collect();
        assert_eq!(
            users,
            [
                ("admin-a", "root"),
                ("local-a", "local"),
                ("remote", "remote"),
                ("remote-b", "remote"),
                ("root", "root")
            ]
        );
        assert_eq!(refused.len(), 3);
        let read =
            |start: &str, end: &str| Permission::Read { start: start.into(), end: end.into() };
        assert_eq!(
            desired.roles["remote"],
            BTreeSet::from([
                read("cilium/.heartbeat", "cilium/.heartbeau"),
                read("cilium/cluster-config/a", "cilium/cluster-config/a\0"),
                read("cilium/state/", "cilium/state0"),
                read("cilium/synced/a/", "cilium/synced/a0"),
            ])
        );
        assert_eq!(desired.roles["local"].len(), 6);
    }
}
