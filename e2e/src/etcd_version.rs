//! The versions of etcd that the tests know, and where this machine has them.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A version of etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EtcdVersion {
    /// The packaged one.
    Debian,
    /// What `e2e/etcd/v3.5` names.
    V3_5,
    /// What `e2e/etcd/v3.6` names.
    V3_6,
}

impl EtcdVersion {
    /// All of them, oldest first.
    pub const ALL: [Self; 3] = [Self::Debian, Self::V3_5, Self::V3_6];

    /// Its program, which is built if this machine has none yet.
    pub fn program(self) -> PathBuf {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/development/etcd.sh");
        let mut command = Command::new(&script);
        command.arg(self.name()).stderr(Stdio::inherit());
        let output = command.output().unwrap_or_else(|e| panic!("{}: {e}", script.display()));
        assert!(output.status.success(), "{command:?}: {}", output.status);
        String::from_utf8(output.stdout).expect("a path").trim_end().into()
    }

    /// As `deploy/development/etcd.sh` calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Debian => "debian",
            Self::V3_5 => "3.5",
            Self::V3_6 => "3.6",
        }
    }
}
