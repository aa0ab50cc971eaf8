//! The file that says which users a cluster's etcd has besides its own: one for each peer that may read.

use serde::{Deserialize, Serialize};

/// `users.yaml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsersFile {
    /// The users, in any order.
    #[serde(default)]
    pub users: Vec<User>,
}

/// One user.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct User {
    /// Its name, which is the common name of its certificate.
    pub name: String,
    /// Its role, `remote` for a peer.
    pub role: String,
}

/// Why a users file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("not a users file: {0}")]
pub struct UsersFileError(String);

/// What a peer's user is called: `remote-` and the peer's name.
pub fn remote_user(peer: &mesh_model::ClusterName) -> String {
    format!("remote-{peer}")
}

/// The role that reads what peers may read.
pub const REMOTE_ROLE: &str = "remote";

// === impl UsersFile ===

impl UsersFile {
    /// Reads a users file; an empty one has no users.
    pub fn parse(text: &str) -> Result<Self, UsersFileError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(text).map_err(|e| UsersFileError(e.without_snippet().to_string()))
    }

    /// Writes a users file.
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
