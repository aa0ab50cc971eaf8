//! Objects that are there twice.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use mesh_model::object::ObjectKey;

use crate::Problem;

/// Objects that are in a file although another one, or a place before, has them: those stay. Of the copy of a whole file the
/// first few are named, and the others counted.
#[derive(Debug, Default)]
pub struct Copies(BTreeMap<(PathBuf, PathBuf), Vec<(usize, ObjectKey)>>);

/// So many of a file are named.
const NAMED: usize = 3;

impl Copies {
    /// Takes note of one, at a line of a file, that `owner` has already.
    pub fn add(&mut self, (file, line): (&Path, usize), owner: &Path, key: ObjectKey) {
        self.0.entry((file.into(), owner.into())).or_default().push((line, key));
    }

    /// What there is to say of them.
    pub fn problems(self) -> impl Iterator<Item = Problem> {
        self.0.into_iter().flat_map(|((file, owner), copies)| {
            let owner = owner.display();
            let (named, more) = copies.split_at(copies.len().min(NAMED));
            let named = named
                .iter()
                .map(|(line, key)| (*line, format!("{key} is in {owner} already; that one stays")));
            let more = more.first().map(|(line, _)| {
                (*line, format!("{} more objects are in {owner} already; those stay", more.len()))
            });
            let problem = |(line, reason)| Problem { file: file.clone(), line: Some(line), reason };
            named.chain(more).map(problem).collect::<Vec<_>>()
        })
    }
}
