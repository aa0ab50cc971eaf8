//! A set of selector numbers.

/// Of what is at the other end of a flow: the numbers of the selectors that match it. In the kernel it is a bitmap.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Bit n of word n / 64 is number n. Words that are missing are 0.
    words: Vec<u64>,
}

/// The number of a selector: the union of the peers of one rule.
pub type Number = u32;

// === impl Row ===

impl Row {
    /// Whether the number is in it.
    pub fn contains(&self, number: Number) -> bool {
        let (word, bit) = place(number);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Adds a number, and says whether it was missing.
    pub fn insert(&mut self, number: Number) -> bool {
        let (word, bit) = place(number);
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let Some(word) = self.words.get_mut(word) else { return false };
        let missing = *word & bit == 0;
        *word |= bit;
        missing
    }

    /// Removes a number, and says whether it was there.
    pub fn remove(&mut self, number: Number) -> bool {
        let (word, bit) = place(number);
        let Some(word) = self.words.get_mut(word) else { return false };
        let there = *word & bit != 0;
        *word &= !bit;
        there
    }

    /// Adds all that another has.
    pub fn extend(&mut self, other: &Self) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word |= other);
    }

    /// The words of the bitmap, the lowest numbers first; what follows is 0.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    fn used(&self) -> &[u64] {
        let used = self.words.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
        self.words.get(..used).unwrap_or_default()
    }
}

/// Words of zeros at the end make no difference.
impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.used() == other.used()
    }
}

impl Eq for Row {}

impl std::hash::Hash for Row {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.used().hash(state);
    }
}

impl FromIterator<Number> for Row {
    fn from_iter<T: IntoIterator<Item = Number>>(numbers: T) -> Self {
        let mut row = Self::default();
        numbers.into_iter().for_each(|number| {
            row.insert(number);
        });
        row
    }
}

fn place(number: Number) -> (usize, u64) {
    ((number / 64) as usize, 1 << (number % 64))
}
