//! The folder with a cluster's CA and the certificates of its own processes.

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use mesh_files::{Access, write_together};

use crate::{
    ca::{Ca, CaError},
    issue::{Issued, Profile, admin_user, local_user, server_names},
};

/// The folder `pki/` of a cluster directory: `ca`, `server`, `admin` and `local`, each a `.crt` and a `.key`.
#[derive(Clone, Debug)]
pub struct ClusterPki {
    folder: PathBuf,
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The CA.
    #[error("{}: {source}", path.display())]
    Ca {
        /// Its certificate.
        path: PathBuf,
        /// Why.
        source: CaError,
    },
    /// There is a CA already: making another would make every certificate worthless.
    #[error("{}: there is a CA already", .0.display())]
    Exists(PathBuf),
}

impl ClusterPki {
    /// The folder, which need not exist yet.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.into() }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A certificate's file.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.crt"))
    }

    /// Its key's file.
    pub fn key(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.key"))
    }

    /// Makes a cluster's CA, and the certificates of its etcd, its apiserver and its agents. `namespace` is that of
    /// the apiserver's Service, `addresses` are those at which the etcd is reached, loopback aside.
    pub fn create(
        &self,
        cluster: &str,
        namespace: &str,
        addresses: &[IpAddr],
        lifetime: Duration,
    ) -> Result<(), PkiError> {
        if self.certificate("ca").exists() {
            return Err(PkiError::Exists(self.certificate("ca")));
        }
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        made.map_err(|source| PkiError::Io { path: self.folder.clone(), source })?;
        let now = SystemTime::now();
        let blame = |source| PkiError::Ca { path: self.certificate("ca"), source };
        let (ca, own) = Ca::create(cluster, now, Ca::LIFETIME).map_err(blame)?;
        self.write("ca", &own)?;
        let issue = |profile| ca.issue(&profile, now, lifetime).map_err(blame);
        let loopback = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1u16])];
        let addresses = loopback.into_iter().chain(addresses.iter().copied()).collect();
        self.write(
            "server",
            &issue(Profile::Server { names: server_names(namespace), addresses })?,
        )?;
        self.write("admin", &issue(Profile::Client { user: admin_user(cluster) })?)?;
        self.write("local", &issue(Profile::Client { user: local_user(cluster) })?)
    }

    /// The CA.
    pub fn ca(&self, now: SystemTime) -> Result<Ca, PkiError> {
        let read = |path: PathBuf| {
            fs::read_to_string(&path).map_err(|source| PkiError::Io { path, source })
        };
        let (certificate, key) = (read(self.certificate("ca"))?, read(self.key("ca"))?);
        let blame = |source| PkiError::Ca { path: self.certificate("ca"), source };
        Ca::load(&certificate, &key, now).map_err(blame)
    }

    /// Writes a certificate and its key, the key readable by its owner only. A reader of both between the two sees a
    /// key that is another certificate's, for microseconds.
    pub fn write(&self, name: &str, issued: &Issued) -> Result<(), PkiError> {
        let (key, certificate) = (self.key(name), self.certificate(name));
        let files = [
            (key.as_path(), issued.key.as_bytes(), Access::Owner),
            (certificate.as_path(), issued.certificate.as_bytes(), Access::All),
        ];
        write_together(&files).map_err(|source| PkiError::Io { path: certificate, source })
    }
}
