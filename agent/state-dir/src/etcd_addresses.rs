//! The addresses at which etcds were last reached, kept on disk for a start without a name server.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use mesh_etcd::LastAddresses;
use mesh_files::{Access, write_atomic};
use mesh_snapshot::{HostAddresses, decode_addresses, encode_addresses};
use tokio::time::sleep;

/// The file, and what it should hold.
pub struct EtcdAddresses {
    addresses: LastAddresses,
    file: PathBuf,
    written: HostAddresses,
}

/// How often the file is compared with what is known.
const LOOK: Duration = Duration::from_secs(1);

impl EtcdAddresses {
    /// Reads what the previous run left. A file that cannot be used is as good as none.
    pub fn open(folder: &Path) -> Self {
        let file = folder.join("etcd-addresses.jsonl");
        let known = match fs::read(&file) {
            Ok(content) => decode_addresses(&content).unwrap_or_else(|error| {
                tracing::warn!(file = %file.display(), %error, "not used");
                HostAddresses::new()
            }),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(file = %file.display(), %error, "not used");
                }
                HostAddresses::new()
            }
        };
        Self { addresses: LastAddresses::new(known.clone()), file, written: known }
    }

    /// The addresses, which followers use and keep up to date.
    pub fn addresses(&self) -> LastAddresses {
        self.addresses.clone()
    }

    /// Keeps the file up to date.
    pub async fn run(mut self) {
        let mut failed = false;
        loop {
            sleep(LOOK).await;
            let addresses = self.addresses.all();
            if addresses == self.written && !failed {
                continue;
            }
            let written = write_atomic(&self.file, &encode_addresses(&addresses), Access::Owner);
            failed = written.is_err();
            if let Err(error) = written {
                tracing::warn!(file = %self.file.display(), %error, "not written");
            }
            self.written = addresses;
        }
    }
}
