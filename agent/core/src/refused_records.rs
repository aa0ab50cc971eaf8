//! Records of a cluster that are refused now: those that it exports and that were not accepted in their present form.

use std::collections::BTreeMap;

use mesh_model::{RecordEvent, RecordKey, excerpt};

/// Records that are kept by name: what a hostile peer has more is not worth our memory.
const MAX: usize = 1_000;
/// How much of a reason is kept.
const REASON: usize = 300;
/// How many a sentence shows.
const SHOWN: usize = 2;

/// The refused records of a cluster.
#[derive(Debug, Default)]
pub(crate) struct RefusedRecords {
    records: BTreeMap<RecordKey, Refusal>,
    /// A record whose content could not be read; its reason follows.
    unread: Option<RecordKey>,
}

#[derive(Debug)]
struct Refusal {
    reason: String,
    /// It was not reported again in the list that is under way.
    listed_before: bool,
}

impl RefusedRecords {
    /// A cluster's event. A refused record is named by [`Self::refuse`] after it.
    pub(crate) fn event(&mut self, event: &RecordEvent) {
        match event {
            RecordEvent::Begin(kind) => {
                let records = self.records.iter_mut().filter(|(key, _)| key.kind() == *kind);
                records.for_each(|(_, refusal)| refusal.listed_before = true);
            }
            // Nearly always: no key is made for it.
            RecordEvent::Upsert(_) if self.records.is_empty() => {}
            RecordEvent::Upsert(record) => {
                self.records.remove(&record.key());
            }
            RecordEvent::Keep(key) => self.unread = Some(key.clone()),
            RecordEvent::Doubt(_) => {}
            RecordEvent::Remove(key) => {
                self.records.remove(key);
            }
            RecordEvent::Confirmed(kind) => {
                self.records.retain(|key, refusal| key.kind() != *kind || !refusal.listed_before)
            }
            RecordEvent::Without(kind) => self.records.retain(|key, _| key.kind() != *kind),
        }
    }

    /// A record is refused: this one, or the one whose content could not be read.
    pub(crate) fn refuse(&mut self, key: Option<RecordKey>, reason: &str) {
        let Some(key) = key.or_else(|| self.unread.take()) else { return };
        if self.records.len() < MAX || self.records.contains_key(&key) {
            let reason = excerpt(reason, REASON).into_owned();
            self.records.insert(key, Refusal { reason, listed_before: false });
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Each with why.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&RecordKey, &str)> {
        self.records.iter().map(|(key, refusal)| (key, refusal.reason.as_str()))
    }

    /// How many, and the first of them; nothing where there is none.
    pub(crate) fn describe(&self) -> Option<String> {
        let shown = self.records.values().take(SHOWN).map(|refusal| refusal.reason.as_str());
        let shown = shown.collect::<Vec<_>>().join("; ");
        Some(match self.records.len() {
            0 => return None,
            1 => format!("a record is refused: {shown}"),
            MAX => format!("{MAX} records or more are refused, among them: {shown}"),
            count if count <= SHOWN => format!("{count} records are refused: {shown}"),
            count => format!("{count} records are refused, among them: {shown}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use mesh_model::RecordKind;

    use super::*;

    fn node(name: &str) -> RecordKey {
        RecordKey::Node(name.into())
    }

    #[test]
    fn a_record_is_refused_until_it_is_accepted_removed_or_missing_in_a_list() {
        let mut refused = RefusedRecords::default();
        assert_eq!(refused.describe(), None);
        refused.refuse(Some(node("n1")), "10.1.9.0/24 is ours");
        assert_eq!(refused.describe().unwrap(), "a record is refused: 10.1.9.0/24 is ours");
        refused.event(&RecordEvent::Keep(node("n2")));
        refused.refuse(None, "no JSON");
        refused.refuse(Some(node("n3")), "third");
        let keys: Vec<RecordKey> = refused.iter().map(|(key, _)| key.clone()).collect();
        assert_eq!(keys, ["n1", "n2", "n3"].map(node));
        let all = "3 records are refused, among them: 10.1.9.0/24 is ours; no JSON";
        assert_eq!(refused.describe().unwrap(), all);
        refused.event(&RecordEvent::Remove(node("n3")));
        assert_eq!(refused.len(), 2);
        // Another list, in which one of them is refused again.
        refused.event(&RecordEvent::Begin(RecordKind::Node));
        refused.refuse(Some(node("n2")), "no JSON");
        refused.event(&RecordEvent::Confirmed(RecordKind::Identity));
        assert_eq!(refused.len(), 2, "another kind's list says nothing");
        refused.event(&RecordEvent::Confirmed(RecordKind::Node));
        assert_eq!(refused.describe().unwrap(), "a record is refused: no JSON");
        refused.event(&RecordEvent::Without(RecordKind::Node));
        assert_eq!(refused.describe(), None);
    }

    #[test]
    fn what_is_kept_of_a_hostile_peer_is_bounded() {
        let mut refused = RefusedRecords::default();
        for n in 0..=MAX {
            refused.refuse(Some(node(&format!("n{n:05}"))), &"x".repeat(10_000));
        }
        assert_eq!(refused.len(), MAX);
        let text = refused.describe().unwrap();
        assert!(text.starts_with("1000 records or more are refused") && text.len() < 1_000);
        assert!(text.ends_with("xxx…"), "{text}");
    }
}
