//! The first line of a file: it shows that the rest is complete, and of a known version.

use serde::{Deserialize, Serialize};

/// The only version yet.
const VERSION: u32 = 1;

/// Why the content of a file is not used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The first line is none of ours.
    #[error("it does not begin as a file of ours does")]
    Foreign,
    /// Written by a later version.
    #[error("it is of version {0}, and this agent reads up to {VERSION}")]
    Newer(u32),
    /// Part of it is missing, or it is longer than what was written.
    #[error("{found} of {expected} bytes are there")]
    Torn {
        /// The present number of bytes.
        found: usize,
        /// The number of bytes in the header.
        expected: usize,
    },
    /// It was changed since.
    #[error("its checksum is {found}, not {expected}")]
    Damaged {
        /// Of the content.
        found: u32,
        /// In the header.
        expected: u32,
    },
}

/// All versions have this.
#[derive(Deserialize)]
struct Versioned {
    v: u32,
}

#[derive(Serialize, Deserialize)]
struct Seal {
    v: u32,
    bytes: usize,
    crc32c: u32,
}

/// A file with this content.
pub(crate) fn seal(content: &[u8]) -> Vec<u8> {
    let seal = Seal { v: VERSION, bytes: content.len(), crc32c: crc32c::crc32c(content) };
    let mut file = serde_json::to_vec(&seal).unwrap_or_default();
    file.push(b'\n');
    file.extend_from_slice(content);
    file
}

/// The content of a file.
pub(crate) fn open(file: &[u8]) -> Result<&[u8], HeaderError> {
    let end = file.iter().position(|byte| *byte == b'\n').ok_or(HeaderError::Foreign)?;
    let (line, rest) = file.split_at_checked(end).ok_or(HeaderError::Foreign)?;
    let content = rest.get(1..).unwrap_or_default();
    let Versioned { v } = serde_json::from_slice(line).map_err(|_| HeaderError::Foreign)?;
    if v > VERSION {
        return Err(HeaderError::Newer(v));
    }
    let Seal { bytes, crc32c, .. } =
        serde_json::from_slice(line).map_err(|_| HeaderError::Foreign)?;
    if content.len() != bytes {
        return Err(HeaderError::Torn { found: content.len(), expected: bytes });
    }
    match crc32c::crc32c(content) {
        found if found == crc32c => Ok(content),
        found => Err(HeaderError::Damaged { found, expected: crc32c }),
    }
}
