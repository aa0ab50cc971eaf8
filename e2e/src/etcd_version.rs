//! The versions of etcd in the tests, and their programs on this machine.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A version of etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EtcdVersion {
    /// Debian's package.
    Debian,
    /// The release 3.5 in `e2e/etcd/v3.5`.
    V3_5,
    /// The release 3.6 in `e2e/etcd/v3.6`.
    V3_6,
}

impl EtcdVersion {
    /// All versions, the oldest first.
    pub const ALL: [Self; 3] = [Self::Debian, Self::V3_5, Self::V3_6];

    /// Its program. It is built if this machine does not have it yet.
    pub fn program(self) -> PathBuf {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/development/etcd.sh");
        let mut command = Command::new(&script);
        command.arg(self.name()).stderr(Stdio::inherit());
        let output = command.output().unwrap_or_else(|e| panic!("{}: {e}", script.display()));
        assert!(output.status.success(), "{command:?}: {}", output.status);
        String::from_utf8(output.stdout).expect("a path").trim_end().into()
    }

    /// Its name in `deploy/development/etcd.sh`.
    fn name(self) -> &'static str {
        match self {
            Self::Debian => "debian",
            Self::V3_5 => "3.5",
            Self::V3_6 => "3.6",
        }
    }
}
