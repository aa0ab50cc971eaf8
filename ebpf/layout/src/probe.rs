//! The datagrams with which nodes ask each other whether they are there (`docs/adr/0016`).
//!
//! A question and its answer have the same length, so that no client can use a node to send more than it sent. Every
//! field begins at an even offset: the kernel's side changes words and mends the checksum by their difference.
//!
//! | bytes | field |
//! |---|---|
//! | 0–3 | `CMp2` |
//! | 4 | `?` of a question, `!` of an answer |
//! | 5 | who answered: 0 in a question, 1 the kernel, 2 an agent |
//! | 6–7 | zero |
//! | 8–15 | the nonce, big endian |
//! | 16–19 | answers that the node gave in the last full second, big endian; 0 in a question |
//!
//! `CMp1`, of the previous minor release, is `CMp1`, `?` or `!`, and the nonce: 13 bytes.

/// The length of a datagram.
pub const LENGTH: usize = 20;
/// The length of one of the previous version.
pub const LENGTH_1: usize = 13;
/// How a datagram begins.
pub const MAGIC: [u8; 4] = *b"CMp2";
/// How one of the previous version begins.
pub const MAGIC_1: [u8; 4] = *b"CMp1";
/// The fifth byte of a question.
pub const QUESTION: u8 = b'?';
/// The fifth byte of an answer.
pub const ANSWER: u8 = b'!';
/// The sixth byte where the kernel answers.
pub const BY_KERNEL: u8 = 1;
/// The sixth byte where an agent does.
pub const BY_AGENT: u8 = 2;
/// Where the rate begins.
pub const RATE_AT: usize = 16;
/// The UDP port of questions, unless it is configured otherwise.
pub const PORT: u16 = 9984;

/// How many answers the kernel gave in a second: a word of `cm_probe_answers`, at the second modulo [`ANSWER_SECONDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerSecond {
    /// The second, counted from the machine's start.
    pub second: u32,
    /// Answers in it.
    pub count: u32,
}

/// For how many seconds the answers are counted separately.
pub const ANSWER_SECONDS: u32 = 4;
/// The word of `cm_probe_answers` that counts all answers.
pub const ANSWER_TOTAL: u32 = ANSWER_SECONDS;
/// The number of words.
pub const ANSWER_WORDS: usize = 5;

// === impl AnswerSecond ===

impl AnswerSecond {
    /// The second in a word.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self { second: (word >> 32) as u32, count: word as u32 }
    }

    /// The word of a second. One more answer adds one to it.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        (self.second as u64) << 32 | self.count as u64
    }
}

/// A question.
#[must_use]
pub fn question(nonce: u64) -> [u8; LENGTH] {
    datagram([QUESTION, 0], nonce, 0)
}

/// An answer to the question with this nonce. `by` is [`BY_KERNEL`] or [`BY_AGENT`], `rate` is in answers a second.
#[must_use]
pub fn answer(nonce: u64, by: u8, rate: u32) -> [u8; LENGTH] {
    datagram([ANSWER, by], nonce, rate)
}

fn datagram(kind: [u8; 2], nonce: u64, rate: u32) -> [u8; LENGTH] {
    let mut datagram = [0; LENGTH];
    let (magic, rest) = datagram.split_at_mut(4);
    magic.copy_from_slice(&MAGIC);
    let (head, rest) = rest.split_at_mut(4);
    head[..2].copy_from_slice(&kind);
    let (number, last) = rest.split_at_mut(8);
    number.copy_from_slice(&nonce.to_be_bytes());
    last.copy_from_slice(&rate.to_be_bytes());
    datagram
}

/// What a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram {
    /// A question.
    Question {
        /// What the answer must repeat.
        nonce: u64,
    },
    /// An answer.
    Answer {
        /// That of the question.
        nonce: u64,
        /// The kernel answered, and no agent.
        by_kernel: bool,
        /// Answers that the node gave in the last full second.
        rate: u32,
    },
}

/// Reads a datagram of the present version; `None` for anything else.
#[must_use]
pub fn parse(datagram: &[u8]) -> Option<Datagram> {
    let datagram: &[u8; LENGTH] = datagram.try_into().ok()?;
    let [a, b, c, d, kind, by, 0, 0, rest @ ..] = datagram else { return None };
    if [*a, *b, *c, *d] != MAGIC {
        return None;
    }
    let [n0, n1, n2, n3, n4, n5, n6, n7, r0, r1, r2, r3] = *rest;
    let nonce = u64::from_be_bytes([n0, n1, n2, n3, n4, n5, n6, n7]);
    let rate = u32::from_be_bytes([r0, r1, r2, r3]);
    match (*kind, *by) {
        (QUESTION, 0) => Some(Datagram::Question { nonce }),
        (ANSWER, BY_KERNEL) => Some(Datagram::Answer { nonce, by_kernel: true, rate }),
        (ANSWER, BY_AGENT) => Some(Datagram::Answer { nonce, by_kernel: false, rate }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_are_read_as_written() {
        assert_eq!(&question(7), b"CMp2?\0\0\0\0\0\0\0\0\0\0\x07\0\0\0\0");
        assert_eq!(parse(&question(7)), Some(Datagram::Question { nonce: 7 }));
        let by_kernel = Datagram::Answer { nonce: u64::MAX, by_kernel: true, rate: 10_000 };
        assert_eq!(parse(&answer(u64::MAX, BY_KERNEL, 10_000)), Some(by_kernel));
        let by_agent = Datagram::Answer { nonce: 1, by_kernel: false, rate: 0 };
        assert_eq!(parse(&answer(1, BY_AGENT, 0)), Some(by_agent));
    }

    #[test]
    fn a_second_is_a_word_and_one_more_answer_is_one_more() {
        let second = AnswerSecond { second: 7, count: 41 };
        let more = AnswerSecond::from_word(second.to_word() + 1);
        assert_eq!(more, AnswerSecond { second: 7, count: 42 });
        assert_eq!(ANSWER_WORDS, usize::try_from(ANSWER_TOTAL).unwrap() + 1);
    }

    #[test]
    fn anything_else_is_none() {
        let good = question(7);
        assert_eq!(parse(&good[..LENGTH - 1]), None);
        assert_eq!(parse(&[&good[..], &[0]].concat()), None);
        for (at, byte) in [(0, b'c'), (3, b'1'), (4, b'.'), (5, 3), (6, 1), (7, 1)] {
            let mut bad = good;
            bad[at] = byte;
            assert_eq!(parse(&bad), None, "{at}");
        }
    }
}
