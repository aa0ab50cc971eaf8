//! The file with the users of a cluster's etcd for other clusters: one for each peer that may read.

use serde::{Deserialize, Serialize};

/// The content of `users.yaml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsersFile {
    /// The users, in any order.
    #[serde(default)]
    pub users: Vec<User>,
}

/// One user.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct User {
    /// The user's name, which is the common name of the peer's certificate.
    pub name: String,
    /// The user's role: `remote` for a peer.
    pub role: String,
}

/// Why a users file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("not a users file: {0}")]
pub struct UsersFileError(String);

/// The name of a peer's user: `remote-` and the peer's name.
pub fn remote_user(peer: &mesh_model::ClusterName) -> String {
    format!("remote-{peer}")
}

/// The role of peers, which may read the exported keys.
pub const REMOTE_ROLE: &str = "remote";

// === impl UsersFile ===

impl UsersFile {
    /// Parses a users file. An empty file has no users.
    pub fn parse(text: &str) -> Result<Self, UsersFileError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(text).map_err(|e| UsersFileError(e.without_snippet().to_string()))
    }

    /// The file's content.
    pub fn to_yaml(&self) -> Result<String, UsersFileError> {
        serde_saphyr::to_string(self).map_err(|e| UsersFileError(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let file = UsersFile::parse("users:\n- name: remote-beta\n  role: remote\n").unwrap();
        assert_eq!(file.users[0].name, "remote-beta");
        assert_eq!(UsersFile::parse(&file.to_yaml().unwrap()).unwrap(), file);
        assert_eq!(UsersFile::parse("").unwrap(), UsersFile::default());
        assert!(UsersFile::parse("users: 3").is_err());
    }
}
