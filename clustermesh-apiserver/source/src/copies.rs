//! Objects that occur several times.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use mesh_model::object::ObjectKey;

use crate::Problem;

/// Objects in a file that another file, or an earlier line, already has. These copies are not used. Of a file with many
/// copies, the first few are named, and the others are counted.
#[derive(Debug, Default)]
pub struct Copies(BTreeMap<(PathBuf, PathBuf), Vec<(usize, ObjectKey)>>);

/// How many copies in a file are named.
const NAMED: usize = 3;

impl Copies {
    /// Adds a copy at a line of a file. `owner` is the file whose object is in force.
    pub fn add(&mut self, (file, line): (&Path, usize), owner: &Path, key: ObjectKey) {
        self.0.entry((file.into(), owner.into())).or_default().push((line, key));
    }

    /// Messages about the copies.
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

#[cfg(test)]
mod tests {
    use mesh_model::object::Kind;

    use super::*;

    #[test]
    fn a_few_are_named_and_the_others_counted() {
        let key = |number: usize| ObjectKey {
            kind: Kind::Pod,
            namespace: "shop".into(),
            name: format!("p-{number}").into(),
        };
        let said = |count: usize| -> Vec<String> {
            let mut copies = Copies::default();
            for number in 1..=count {
                copies.add((Path::new("b.yaml"), number), Path::new("a.yaml"), key(number));
            }
            copies.problems().map(|problem| problem.to_string()).collect()
        };
        assert_eq!(said(1), ["b.yaml:1: Pod shop/p-1 is in a.yaml already; that one stays"]);
        assert_eq!(said(3).len(), 3);
        let many = said(1_000);
        assert_eq!(many.len(), 4);
        assert_eq!(many[3], "b.yaml:4: 997 more objects are in a.yaml already; those stay");
    }
}
