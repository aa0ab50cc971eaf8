//! The journal's lines.

use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::JournalError;
use crate::table::State;

/// One line.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    v: u32,
    crc32c: u32,
    #[serde(flatten)]
    entry: Entry,
}

/// The content of a line. The checksum is that of its JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, rename_all_fields = "camelCase", deny_unknown_fields)]
pub(super) enum Entry {
    /// Which cluster this is. The first line.
    Cluster { uuid: Uuid, unix_nano: u64 },
    /// A state of a label set's identity.
    Identity { id: u32, labels: String, state: State, unix_nano: u64 },
    /// The manifests were at this revision. Lines of the first version name no content: revisions up to theirs were in use.
    Revision {
        revision: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        manifests: Option<String>,
        unix_nano: u64,
    },
}

const VERSION: u32 = 1;

impl Entry {
    /// The entry as a line, with its end.
    pub(super) fn line(&self) -> Result<Vec<u8>, serde_json::Error> {
        let line = Line { v: VERSION, crc32c: self.checksum(), entry: self.clone() };
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        Ok(text)
    }

    fn read(text: &[u8]) -> Result<Self, String> {
        let Line { v, crc32c, entry } = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        if v != VERSION {
            return Err(format!("version {v} is not known"));
        }
        let found = entry.checksum();
        if found == crc32c {
            Ok(entry)
        } else {
            Err(format!("checksum {found} instead of {crc32c}"))
        }
    }

    fn checksum(&self) -> u32 {
        // Entries are numbers and text: writing them to memory cannot fail.
        serde_json::to_vec(self).map_or(0, |json| crc32c::crc32c(&json))
    }
}

/// All entries, the first in line `first`, and how many bytes they take: less than all where the last line was cut off.
pub(super) fn parse(
    path: &Path,
    first: usize,
    content: &[u8],
) -> Result<(Vec<Entry>, usize), JournalError> {
    let mut entries = Vec::new();
    let mut whole = 0;
    for (number, line) in (first..).zip(content.split_inclusive(|b| *b == b'\n')) {
        let Some(text) = line.strip_suffix(b"\n") else { break };
        let damaged = |reason| JournalError::Damaged { path: path.into(), line: number, reason };
        entries.push(Entry::read(text).map_err(damaged)?);
        whole += line.len();
    }
    Ok((entries, whole))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;

    fn journal() -> Vec<Entry> {
        let identity = |id, app: &str, state| Entry::Identity {
            id,
            labels: format!("k8s:app={app};"),
            state,
            unix_nano: 1_800_000_000_000_000_000,
        };
        vec![
            Entry::Cluster { uuid: Uuid::from_u128(7), unix_nano: 0 },
            identity(458_753, "a", State::Used),
            identity(458_754, "ü \"b\"", State::Marked),
            Entry::Revision { revision: 3, manifests: Some("00ff".into()), unix_nano: u64::MAX },
            identity(458_753, "a", State::Deleted),
            Entry::Revision { revision: 4, manifests: None, unix_nano: 1 },
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        /// Bytes changed, put in and taken out, lines doubled, and an end cut off: what is read was written, or it is an
        /// error that has the line.
        #[test]
        fn damage_invents_nothing(
            changes in vec((any::<Index>(), any::<u8>(), 0..4u8), 0..4),
            cut in any::<Option<Index>>(),
        ) {
            let written = journal();
            let mut content: Vec<u8> = written.iter().flat_map(|entry| entry.line().unwrap()).collect();
            for (at, byte, change) in changes {
                let at = at.index(content.len());
                match change {
                    0 => content[at] = byte,
                    1 => content.insert(at, byte),
                    2 => drop(content.remove(at)),
                    _ => content.extend(content.clone().split_inclusive(|b| *b == b'\n').next().unwrap()),
                }
            }
            if let Some(cut) = cut {
                content.truncate(cut.index(content.len()));
            }
            match parse(Path::new("journal"), 1, &content) {
                Ok((entries, whole)) => {
                    prop_assert!(entries.iter().all(|entry| written.contains(entry)), "{entries:?}");
                    prop_assert!(whole <= content.len());
                }
                Err(JournalError::Damaged { line, .. }) => prop_assert!((1..=10).contains(&line)),
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
    }
}
