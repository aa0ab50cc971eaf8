//! What of a compiler's result changed: for who writes it somewhere, change by change.

use std::collections::{BTreeSet, HashSet};

use ipnet::IpNet;

use super::Compiler;
use crate::{class::Class, row::Number};

/// What changed since the last look. Each is to be asked for as it is now; some may be as before, and some gone.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Classes that are new, gone, or have another row.
    pub classes: HashSet<Class>,
    /// Ranges that are new, gone, or have another row.
    pub prefixes: BTreeSet<IpNet>,
    /// Positions of pods that are new, gone, or have another set.
    pub subjects: BTreeSet<usize>,
    /// The selectors whose ranges count for addresses of the mesh are others.
    pub in_mesh: bool,
    /// Numbers that nothing has any more. They are not used again before [`Compiler::reuse`].
    pub freed: Vec<Number>,
}

/// What is noted between two looks.
#[derive(Debug, Default)]
pub(super) struct Noted {
    classes: HashSet<Class>,
    subjects: BTreeSet<usize>,
    in_mesh: bool,
}

// === impl Compiler ===

impl Compiler {
    /// From now on changes are noted, and numbers rest. All that there is already counts as new.
    pub fn note_changes(&mut self) {
        self.noted = Some(Noted {
            classes: self.classes.keys().cloned().collect(),
            subjects: self.pods.iter().map(|(at, _)| at).collect(),
            in_mesh: true,
        });
        self.cidrs.note_changes();
        self.unions.let_rest();
    }

    /// All that there is, as if it were new.
    pub fn everything(&self) -> Changes {
        Changes {
            classes: self.classes.keys().cloned().collect(),
            prefixes: self.cidrs.iter().map(|(prefix, _)| *prefix).collect(),
            subjects: self.pods.iter().map(|(at, _)| at).collect(),
            in_mesh: true,
            freed: Vec::new(),
        }
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        let Noted { classes, subjects, in_mesh } =
            self.noted.as_mut().map(std::mem::take).unwrap_or_default();
        let (prefixes, freed) = (self.cidrs.take_changes(), self.unions.take_resting());
        Changes { classes, prefixes, subjects, in_mesh, freed }
    }

    /// These numbers may be used again: a second has passed since nothing has them.
    pub fn reuse(&mut self, numbers: impl IntoIterator<Item = Number>) {
        self.unions.reuse(numbers);
    }

    pub(super) fn note_class(&mut self, class: &Class) {
        Noted::class(&mut self.noted, class);
    }
}

// === impl Noted ===

impl Noted {
    pub(super) fn class(noted: &mut Option<Self>, class: &Class) {
        if let Some(noted) = noted
            && !noted.classes.contains(class)
        {
            noted.classes.insert(class.clone());
        }
    }

    pub(super) fn subject(noted: &mut Option<Self>, at: usize) {
        noted.as_mut().map(|noted| noted.subjects.insert(at));
    }

    pub(super) fn in_mesh(noted: &mut Option<Self>) {
        if let Some(noted) = noted {
            noted.in_mesh = true;
        }
    }
}
