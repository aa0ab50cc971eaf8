//! Texts that many records of a cluster have in common: names of ports, nodes and zones.

use std::{collections::HashSet, sync::Arc};

use crate::accounting::{slot, text};

/// Each text once.
#[derive(Debug, Default)]
pub(crate) struct StringInterner {
    all: HashSet<Arc<str>>,
    /// How many were in use at the last count.
    kept: usize,
    /// Their bytes.
    bytes: u64,
}

/// When there are this many more than twice those in use at the last count, it is worth counting again.
const FREE: usize = 1_024;

impl StringInterner {
    /// The shared form of a text.
    pub(crate) fn get(&mut self, word: &str) -> Arc<str> {
        if let Some(known) = self.all.get(word) {
            return Arc::clone(known);
        }
        // A peer with an endless series of new names does not fill the memory with them.
        if self.all.len() > 2 * self.kept + FREE {
            self.all.retain(|word| Arc::strong_count(word) > 1);
            self.kept = self.all.len();
            self.bytes = self.all.iter().map(|word| cost(word)).sum();
        }
        let word: Arc<str> = word.into();
        self.all.insert(Arc::clone(&word));
        self.bytes += cost(&word);
        word
    }

    /// The bytes of the texts.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn cost(word: &str) -> u64 {
    text(word) + slot::<Arc<str>, ()>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_there_once_and_as_long_as_a_record_has_it() {
        let mut interner = StringInterner::default();
        let held = interner.get("http");
        assert!(Arc::ptr_eq(&held, &interner.get("http")));
        for n in 0..100_000 {
            interner.get(&n.to_string());
        }
        assert!(interner.all.len() < 2 * FREE);
        assert!(Arc::ptr_eq(&held, &interner.get("http")));
        assert_eq!(interner.bytes(), interner.all.iter().map(|word| cost(word)).sum());
    }
}
