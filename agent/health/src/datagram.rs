//! Probe datagrams of the current version and of the previous minor release's (`mesh_layout::probe`).

use mesh_layout::probe::{self, ANSWER, Datagram, LENGTH_1, MAGIC_1, QUESTION};

/// A datagram that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A question.
    Question { nonce: u64, version: Version },
    /// An answer. One of the previous version has no rate.
    Answer { nonce: u64, by_kernel: bool, rate: Option<u32> },
}

/// How a datagram is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// `CMp2`.
    Present,
    /// `CMp1`.
    Previous,
}

/// Room for the longest datagram and a byte more, so that a longer one is noticed.
pub(crate) const ROOM: usize = probe::LENGTH + 1;

/// Reads a datagram of either version; `None` for anything else.
pub(crate) fn parse(datagram: &[u8]) -> Option<Received> {
    match probe::parse(datagram) {
        Some(Datagram::Question { nonce }) => {
            Some(Received::Question { nonce, version: Version::Present })
        }
        Some(Datagram::Answer { nonce, by_kernel, rate }) => {
            Some(Received::Answer { nonce, by_kernel, rate: Some(rate) })
        }
        None => parse_previous(datagram),
    }
}

/// A question of the previous version.
pub(crate) fn previous_question(nonce: u64) -> [u8; LENGTH_1] {
    previous(QUESTION, nonce)
}

/// An answer of the previous version.
pub(crate) fn previous_answer(nonce: u64) -> [u8; LENGTH_1] {
    previous(ANSWER, nonce)
}

fn previous(kind: u8, nonce: u64) -> [u8; LENGTH_1] {
    let [a, b, c, d] = MAGIC_1;
    let [e, f, g, h, i, j, k, l] = nonce.to_be_bytes();
    [a, b, c, d, kind, e, f, g, h, i, j, k, l]
}

fn parse_previous(datagram: &[u8]) -> Option<Received> {
    let [a, b, c, d, kind, nonce @ ..] = datagram else { return None };
    let nonce = u64::from_be_bytes(nonce.try_into().ok()?);
    match *kind {
        _ if [*a, *b, *c, *d] != MAGIC_1 => None,
        QUESTION => Some(Received::Question { nonce, version: Version::Previous }),
        ANSWER => Some(Received::Answer { nonce, by_kernel: false, rate: None }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use mesh_layout::probe::{BY_AGENT, BY_KERNEL, answer, question};

    use super::*;

    #[test]
    fn both_versions_are_read_as_written() {
        let asked = |version| Some(Received::Question { nonce: 7, version });
        let answered =
            |by_kernel, rate| Some(Received::Answer { nonce: u64::MAX, by_kernel, rate });
        for (datagram, expected) in [
            (question(7).to_vec(), asked(Version::Present)),
            (answer(u64::MAX, BY_KERNEL, 10_000).to_vec(), answered(true, Some(10_000))),
            (answer(u64::MAX, BY_AGENT, 0).to_vec(), answered(false, Some(0))),
            (b"CMp1?\0\0\0\0\0\0\0\x07".to_vec(), asked(Version::Previous)),
            (previous_question(7).to_vec(), asked(Version::Previous)),
            (previous_answer(u64::MAX).to_vec(), answered(false, None)),
        ] {
            assert_eq!(parse(&datagram), expected);
        }
    }

    #[test]
    fn anything_else_is_none() {
        let present = question(7);
        for bad in [&b""[..], b"CMp1", b"CMp1?1234567", b"CMp1?123456789", b"xxxx?12345678"] {
            assert_eq!(parse(bad), None);
        }
        assert_eq!(parse(&present[..19]), None);
        assert_eq!(parse(&[&present[..], b"x"].concat()), None);
        assert_eq!(parse(b"CMp1.12345678"), None);
    }
}
