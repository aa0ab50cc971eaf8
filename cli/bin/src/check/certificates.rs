//! The certificates of a cluster directory, and who may read their keys.

use std::{
    fs::{self, DirEntry},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use mesh_certs::{Details, belong_together, details, rfc_3339, rotated_by};
use mesh_lab::contexts::Context;
use mesh_source::cluster_directory::ClusterDirectory;

use super::{Check, Row};

/// Permissions of others than the owner.
const OTHERS: u32 = 0o077;

/// What is wrong with the cluster's own certificates, and with those for its peers' etcds; or that all is well.
pub(super) fn rows(context: &Context, now: SystemTime) -> Vec<Row> {
    let directory = ClusterDirectory::new(&context.directory);
    let (pki, peers) = (directory.pki(), directory.peers());
    let mut all = Certificates { now, count: 0, first_end: None, rows: Vec::new() };
    match files(&pki) {
        Ok(files) => files.iter().for_each(|file| all.look(file, &context.name)),
        Err(error) => all.failed(
            &pki,
            &error.to_string(),
            format!("clustermesh certs init --cluster NAME --dir {}", pki.display()),
        ),
    }
    match files(&peers) {
        Ok(files) => {
            for file in files {
                let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                // What a removed peer left is of no use.
                let peer = name.split_once(".etcd-client").map(|(peer, _)| peer.to_owned());
                if let Some(peer) = peer.filter(|peer| peers.join(peer).exists()) {
                    all.look(&file, &peer);
                }
            }
        }
        // It is not connected yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => all.failed(&peers, &error.to_string(), "run this as root".into()),
    }
    all.into_rows()
}

/// The files of a folder, by name.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<DirEntry>>>()?;
    let mut files: Vec<PathBuf> = entries.iter().map(DirEntry::path).collect();
    files.sort();
    Ok(files)
}

/// What was looked at.
struct Certificates {
    now: SystemTime,
    count: usize,
    /// When the first of those ends that are not about to.
    first_end: Option<SystemTime>,
    rows: Vec<Row>,
}

impl Certificates {
    /// Looks at a file. `issuer` is the cluster that issued it.
    fn look(&mut self, file: &Path, issuer: &str) {
        match file.extension().and_then(|kind| kind.to_str()) {
            Some("crt") => {
                let rotate =
                    format!("clustermesh certs rotate --context {issuer} {}", rotated_by(file));
                let read = fs::read_to_string(file).map_err(|error| error.to_string());
                let found = read.and_then(|text| match details(&text) {
                    Ok(found) => Ok((text, found)),
                    Err(error) => Err(error.to_string()),
                });
                match found {
                    Ok((text, found)) => self.certificates(file, &text, &found, &rotate),
                    Err(error) => self.failed(file, &error, rotate),
                }
            }
            Some("key") => self.key(file),
            _ => {}
        }
    }

    fn certificates(&mut self, file: &Path, text: &str, found: &[Details], rotate: &str) {
        for details in found {
            self.count += 1;
            let Details { subject, not_before, not_after, .. } = details;
            let expiring = details.expiring(file, self.now);
            if self.now < *not_before {
                let what = format!("the certificate {subject:?} begins {}", rfc_3339(*not_before));
                self.failed(
                    file,
                    &what,
                    "set the clock, or that of the machine that issued it".into(),
                );
            } else if let Some(expiring) = expiring {
                let (found, remedy) = (expiring.to_string(), rotate.to_owned());
                self.rows.push(match expiring.ended {
                    true => Row::failed(Check::Certificates, found, remedy),
                    false => Row::warning(Check::Certificates, found, remedy),
                });
            } else {
                self.first_end = self.first_end.into_iter().chain([*not_after]).min();
            }
        }
        // A CA's key may be that of any of several in the file.
        let key = file.with_extension("key");
        let is_leaf = found.first().is_some_and(|details| !details.is_ca);
        if let Ok(key_text) = fs::read_to_string(&key)
            && is_leaf
            && !belong_together(text, &key_text)
        {
            self.failed(
                &key,
                &format!("it is not the key of {}", file.display()),
                rotate.to_owned(),
            );
        }
    }

    fn key(&mut self, file: &Path) {
        match fs::metadata(file) {
            Ok(found) if found.permissions().mode() & OTHERS != 0 => {
                let mode = found.permissions().mode() & 0o777;
                let what = format!("mode {mode:04o}: other users can read the private key");
                self.failed(file, &what, format!("chmod 0600 {}", file.display()));
            }
            Ok(_) => {}
            Err(error) => self.failed(file, &error.to_string(), "run this as root".into()),
        }
    }

    fn failed(&mut self, file: &Path, what: &str, remedy: String) {
        let found = format!("{}: {what}", file.display());
        self.rows.push(Row::failed(Check::Certificates, found, remedy));
    }

    fn into_rows(self) -> Vec<Row> {
        let Self { count, first_end, rows, .. } = self;
        match (rows.is_empty(), first_end) {
            (true, Some(end)) => vec![Row::ok(
                Check::Certificates,
                format!(
                    "{count} are valid, the first ends {}; keys are their owner's alone",
                    rfc_3339(end)
                ),
            )],
            (true, None) => vec![Row::failed(
                Check::Certificates,
                "there is none in pki/",
                "clustermesh certs init --cluster NAME --dir DIRECTORY/pki",
            )],
            (false, _) => rows,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, time::Duration};

    use mesh_certs::ClusterPki;

    use super::*;
    use crate::check::Level;

    const DAY: Duration = Duration::from_secs(24 * 3_600);

    /// A cluster directory with certificates for a year; `b` is a peer whose file is there.
    fn cluster() -> (tempfile::TempDir, Context) {
        let folder = tempfile::tempdir().unwrap();
        let (pki, peers) = (folder.path().join("pki"), folder.path().join("peers"));
        ClusterPki::new(&pki).create("a", "default", &[], 365 * DAY).unwrap();
        fs::create_dir(&peers).unwrap();
        fs::write(peers.join("b"), "endpoints: []").unwrap();
        for peer in ["b", "gone"] {
            let to = |ending: &str| peers.join(format!("{peer}.etcd-client.{ending}"));
            fs::copy(pki.join("local.crt"), to("crt")).unwrap();
            fs::copy(pki.join("local.key"), to("key")).unwrap();
            fs::copy(pki.join("ca.crt"), peers.join(format!("{peer}.etcd-client-ca.crt"))).unwrap();
        }
        let context = Context {
            name: "a".into(),
            directory: folder.path().into(),
            apiserver: "/".into(),
            replicas: Vec::new(),
            agents: Vec::new(),
            netns: None,
        };
        (folder, context)
    }

    fn found(context: &Context, now: SystemTime) -> Vec<(Level, String, String)> {
        let short = |text: &str| text.replace(&format!("{}/", context.directory.display()), "");
        let rows = rows(context, now).into_iter();
        rows.map(|row| (row.level, short(&row.found), short(&row.remedy))).collect()
    }

    #[test]
    fn sound_certificates_are_one_row() {
        let (_folder, context) = cluster();
        let [(level, found, _)] = found(&context, SystemTime::now()).try_into().unwrap();
        // The CA, three of the cluster's own, and two for b: what a removed peer left does not count.
        assert!(found.starts_with("6 are valid, the first ends 20"), "{found}");
        assert_eq!(level, Level::Ok);
    }

    #[test]
    fn certificates_that_end_are_named_with_the_command_of_their_issuer() {
        let (_folder, context) = cluster();
        let now = SystemTime::now();
        for (days, level, verb) in [(340, Level::Warning, "ends"), (366, Level::Failed, "ended")] {
            let rows = found(&context, now + days * DAY);
            let wanted = [
                ("pki/admin.crt", "--context a --clients"),
                ("pki/local.crt", "--context a --clients"),
                ("pki/server.crt", "--context a --server"),
                ("peers/b.etcd-client.crt", "--context b --clients"),
            ];
            assert_eq!(rows.len(), wanted.len(), "{rows:#?}");
            for ((found_level, found, remedy), (file, flags)) in rows.iter().zip(wanted) {
                assert_eq!(*found_level, level);
                assert!(found.starts_with(file) && found.contains(&format!(" {verb} ")), "{found}");
                assert_eq!(*remedy, format!("clustermesh certs rotate {flags}"));
            }
        }
        let early = found(&context, now - DAY);
        let begins = |(level, found, remedy): &(Level, String, String)| {
            *level == Level::Failed && found.contains(" begins 20") && remedy.contains("clock")
        };
        assert!(early.len() == 6 && early.iter().all(begins), "{early:#?}");
    }

    #[test]
    fn keys_and_files_that_are_not_sound_are_named() {
        let (folder, context) = cluster();
        let at = |file: &str| folder.path().join(file);
        let now = SystemTime::now();
        fs::copy(at("pki/admin.key"), at("pki/server.key")).unwrap();
        fs::set_permissions(at("pki/local.key"), Permissions::from_mode(0o644)).unwrap();
        fs::write(at("peers/b.etcd-client.crt"), "nothing").unwrap();
        let rows = found(&context, now);
        let wanted = [
            ("pki/local.key: mode 0644", "chmod 0600 pki/local.key"),
            ("pki/server.key: it is not the key of", "certs rotate --context a --server"),
            ("peers/b.etcd-client.crt: no certificate", "certs rotate --context b --clients"),
        ];
        assert_eq!(rows.len(), wanted.len(), "{rows:#?}");
        for ((level, found, remedy), (what, todo)) in rows.iter().zip(wanted) {
            assert_eq!(*level, Level::Failed);
            assert!(found.starts_with(what) && remedy.contains(todo), "{found} → {remedy}");
        }
        fs::remove_dir_all(at("pki")).unwrap();
        fs::remove_dir_all(at("peers")).unwrap();
        let [(level, found, remedy)] = found(&context, now).try_into().unwrap();
        assert!(level == Level::Failed && found.starts_with("pki: "), "{found}");
        assert!(remedy.starts_with("clustermesh certs init"), "{remedy}");
    }
}
