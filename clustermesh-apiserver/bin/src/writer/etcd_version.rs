//! Which versions of etcd restrict a peer to its role. `docs/etcd.md` describes the attacks; tests try each on real etcds.

use semver::Version;

/// Something that a peer can do on some versions although its role does not permit it.
struct Attack {
    /// What a peer can do.
    what: &'static str,
    /// The first fixed release of each minor version. Later minor versions are fixed, all others are not.
    refused_from: &'static [Version],
}

const ATTACKS: [Attack; 3] = [
    Attack {
        what: "read and write all keys by nested transactions",
        refused_from: &[Version::new(3, 5, 28), Version::new(3, 6, 9)],
    },
    Attack {
        what: "read the keys for local nodes by a watch without an end key",
        refused_from: &[Version::new(3, 5, 33), Version::new(3, 6, 14), Version::new(3, 7, 1)],
    },
    Attack {
        what: "delete keys and become root while the etcd is full",
        refused_from: &[Version::new(3, 6, 0)],
    },
];
/// The versions in which all of them are fixed.
const REMEDY: &str = "Run etcd 3.6.14 or newer (3.7.1 or newer of 3.7), or start the apiserver with --trusted-peers if you trust all peers";

// === impl Attack ===

impl Attack {
    fn works_on(&self, version: &Version) -> bool {
        let minor = |version: &Version| (version.major, version.minor);
        let of_minor = self.refused_from.iter().find(|from| minor(from) == minor(version));
        match (of_minor, self.refused_from.last()) {
            (Some(from), _) => version < from,
            (None, last) => last.is_none_or(|last| version < last),
        }
    }
}

/// Why a version is not safe with untrusted peers, with a remedy; `None` if it is.
pub(super) fn unfit(version: &str) -> Option<String> {
    let Ok(parsed) = Version::parse(version) else {
        return Some(format!(
            "etcd: its version {version:?} cannot be parsed, so it is not known what it lets a peer do. {REMEDY}"
        ));
    };
    let works = ATTACKS.iter().filter(|attack| attack.works_on(&parsed));
    let works: Vec<&str> = works.map(|attack| attack.what).collect();
    (!works.is_empty()).then(|| {
        format!(
            "etcd: version {version} is not safe with untrusted peers: a peer can {}. {REMEDY}",
            works.join(", or ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The releases in the advisories, and those before them.
    #[test]
    fn versions_are_safe_from_the_release_with_the_last_fix() {
        let works = |version: &str| {
            let version = Version::parse(version).unwrap();
            ATTACKS.iter().map(|attack| attack.works_on(&version)).collect::<Vec<_>>()
        };
        assert_eq!(works("3.4.23"), [true, true, true]);
        assert_eq!(works("3.4.99"), [true, true, true]);
        assert_eq!(works("3.5.27"), [true, true, true]);
        assert_eq!(works("3.5.28"), [false, true, true]);
        assert_eq!(works("3.5.33"), [false, false, true]);
        assert_eq!(works("3.6.8"), [true, true, false]);
        assert_eq!(works("3.6.9"), [false, true, false]);
        assert_eq!(works("3.6.14-rc.0"), [false, true, false], "not released yet");
        assert_eq!(works("3.6.14"), [false, false, false]);
        assert_eq!(works("3.7.0"), [false, true, false]);
        assert_eq!(works("3.7.1"), [false, false, false]);
        assert_eq!(works("3.8.0"), [false, false, false]);
        assert_eq!(works("4.0.0"), [false, false, false]);
    }

    #[test]
    fn unsafe_versions_are_reported_with_a_remedy() {
        assert_eq!(unfit("3.6.16"), None);
        let found = unfit("3.5.35").unwrap();
        assert_eq!(
            found,
            format!(
                "etcd: version 3.5.35 is not safe with untrusted peers: a peer can delete keys and become root while the etcd is full. {REMEDY}"
            )
        );
        assert!(unfit("Not provided").unwrap().contains("\"Not provided\" cannot be parsed"));
        assert!(unfit("").is_some());
    }
}
