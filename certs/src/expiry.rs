//! Certificates that end soon.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::{
    details::{Details, details, rfc_3339},
    issue::BACKDATED,
};

/// The longest time before its end in which a certificate is to be replaced.
const WINDOW: Duration = Duration::from_secs(30 * 24 * 3_600);

/// A certificate that ends soon, or has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiring {
    /// The file it is in.
    pub file: PathBuf,
    /// Its subject.
    pub subject: String,
    /// When it ends.
    pub not_after: SystemTime,
    /// It has ended.
    pub ended: bool,
}

impl Details {
    /// Whether it has ended, or ends within 30 days or the last third of its life, whichever is shorter.
    pub fn is_expiring(&self, now: SystemTime) -> bool {
        let issued = self.not_before + BACKDATED;
        let lifetime = self.not_after.duration_since(issued).unwrap_or_default();
        now + WINDOW.min(lifetime / 3) >= self.not_after
    }

    /// What to say of it while it is expiring. `file` is the file it is in.
    pub fn expiring(&self, file: &Path, now: SystemTime) -> Option<Expiring> {
        self.is_expiring(now).then(|| Expiring {
            file: file.into(),
            subject: self.subject.clone(),
            not_after: self.not_after,
            ended: self.not_after < now,
        })
    }
}

/// What has `clustermesh certs rotate` issue the certificate of a file anew, by the file's name: one of a cluster's own
/// folder, or a peer's (`PEER.etcd-client.crt`, `PEER.etcd-client-ca.crt`).
pub fn rotated_by(file: &Path) -> &'static str {
    match file.file_stem().and_then(|name| name.to_str()) {
        Some("ca" | "ca-next") => "--ca",
        Some("server") => "--server",
        Some(name) if name.ends_with("-ca") => "--ca",
        _ => "--clients",
    }
}

/// The certificates in files `*.crt` of a folder that end soon, or have ended, in the order of their files' names.
/// Files that cannot be read are left out: their users report that.
pub fn expiring(folder: &Path, now: SystemTime) -> Vec<Expiring> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|ending| ending == "crt")).collect();
    files.sort();
    let of = |file: PathBuf| {
        let all = fs::read_to_string(&file).ok().and_then(|text| details(&text).ok());
        let all = all.into_iter().flatten();
        all.filter_map(|details| details.expiring(&file, now)).collect::<Vec<_>>()
    };
    files.into_iter().flat_map(of).collect()
}

impl fmt::Display for Expiring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, subject, not_after, ended } = self;
        let verb = if *ended { "ended" } else { "ends" };
        write!(f, "{}: the certificate {subject:?} {verb} {}", file.display(), rfc_3339(*not_after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClusterPki, Profile};

    #[test]
    fn each_file_is_rotated_by_a_flag() {
        for (file, flag) in [
            ("/c/pki/ca.crt", "--ca"),
            ("/c/pki/ca-next.crt", "--ca"),
            ("/c/pki/server.crt", "--server"),
            ("/c/pki/local.crt", "--clients"),
            ("/c/peers/b.etcd-client.crt", "--clients"),
            ("/c/peers/b.etcd-client-ca.crt", "--ca"),
        ] {
            assert_eq!(rotated_by(Path::new(file)), flag, "{file}");
        }
    }

    #[test]
    fn a_certificate_is_warned_of_in_the_last_third_or_30_days() {
        let folder = std::env::temp_dir().join(format!("mesh-expiry-{}", std::process::id()));
        let pki = ClusterPki::new(&folder);
        let (now, day) = (SystemTime::now(), Duration::from_secs(24 * 3_600));
        pki.create("a", "default", &[], 400 * day).unwrap();
        assert!(expiring(&folder, now).is_empty());
        let ca = pki.ca(now).unwrap();
        let issued =
            ca.issue(&Profile::Client { user: "x".into() }, now, Duration::from_secs(60)).unwrap();
        pki.write("short", &issued).unwrap();
        let of = |after: Duration| expiring(&folder, now + after);
        assert!(of(Duration::from_secs(1)).is_empty());
        let [short] = of(Duration::from_secs(50)).try_into().unwrap();
        assert!(short.to_string().contains("short.crt: the certificate \"CN=x\" ends 20"));
        assert!(of(Duration::from_secs(70))[0].to_string().contains(" ended "));
        let files = |after: Duration| of(after).len();
        assert_eq!(files(369 * day), 1, "400 days: not yet");
        assert!(files(371 * day) > 3, "server, admin and local end in less than 30 days");
        fs::remove_dir_all(&folder).unwrap();
    }
}
