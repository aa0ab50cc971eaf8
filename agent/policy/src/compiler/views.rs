//! What a compiler made of policies.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use mesh_model::NamedPort;
use mesh_policy_rules::PolicyRef;

use super::{Compiler, Direction};
use crate::{class::Class, row::Row, set::Set};

// === impl Compiler ===

impl Compiler {
    /// The rules of a pod's direction.
    pub fn set(&self, at: usize, direction: Direction) -> Option<&Arc<Set>> {
        let subject = self.pods.get(at)?;
        Some(match direction {
            Direction::Egress => &subject.egress,
            Direction::Ingress => &subject.ingress,
        })
    }

    /// The other end of a flow, as sets look at it.
    pub fn peer<'a>(
        &'a self,
        class: &Class,
        address: Option<IpAddr>,
        ports: &'a [NamedPort],
    ) -> crate::set::Peer<'a> {
        let in_mesh = !matches!(class, Class::World { .. });
        crate::set::Peer {
            class: self.classes.get(class).map(|entry| &entry.row),
            cidrs: address.and_then(|address| self.cidrs.row(address)).map(|row| &**row),
            only: in_mesh.then_some(&self.in_mesh),
            unknown: matches!(class, Class::Unknown(_)),
            ports,
        }
    }

    /// The rows of all classes.
    pub fn rows(&self) -> impl Iterator<Item = (&Class, &Row)> {
        self.classes.iter().map(|(class, entry)| (class, &entry.row))
    }

    /// All ranges that rules name, with their rows.
    pub fn prefixes(&self) -> impl Iterator<Item = (&IpNet, &Row)> {
        self.cidrs.iter()
    }

    /// The row of a range that rules name.
    pub fn prefix(&self, prefix: &IpNet) -> Option<&Row> {
        self.cidrs.get(prefix)
    }

    /// The selectors that name all addresses of a range.
    pub fn cidrs_of(&self, range: &IpNet) -> Option<&Row> {
        self.cidrs.row_around(range)
    }

    /// The row of a class.
    pub fn row(&self, class: &Class) -> Option<&Row> {
        self.classes.get(class).map(|entry| &entry.row)
    }

    /// The selectors whose ranges count for addresses of the mesh.
    pub fn in_mesh(&self) -> &Row {
        &self.in_mesh
    }

    /// How many selectors the rules have, at most [`MAX_SELECTORS`] of which a node can hold.
    pub fn selectors(&self) -> usize {
        self.unions.len()
    }

    /// The policies that select a pod, in either direction.
    pub fn selecting(&self, at: usize) -> BTreeSet<&PolicyRef> {
        let Some(subject) = self.pods.get(at) else { return BTreeSet::new() };
        self.subjects.selectors_of(&subject.labels).map(|(policy, _)| &**policy).collect()
    }
}
