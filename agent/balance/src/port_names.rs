//! Which ports of backends a frontend leads to, by their names, as Cilium 1.20 has it.
//!
//! A frontend without a name leads to every port. One with a name leads to the ports of that name, and to those without a
//! name. One number of an address may be reported under several names: it has no name only if none of them is one.

use std::sync::Arc;

use mesh_model::lb::Backend;

use crate::pool::{Member, Pool, PoolKey};

/// What a name of a backend's port is to a frontend. Of several names of one port the first of these counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PortFit {
    /// It is the frontend's.
    Same,
    /// It is another.
    Other,
    /// It is none.
    Unnamed,
}

/// A backend as it is reported under a name that counts for a frontend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Match<'a> {
    pub(crate) port_name: &'a Arc<str>,
    pub(crate) node: &'a Arc<str>,
    pub(crate) member: &'a Member,
}

// === impl PortFit ===

impl PortFit {
    pub(crate) fn of(frontend: &str, name: &str) -> Self {
        match name {
            _ if name == frontend => Self::Same,
            "" => Self::Unnamed,
            _ => Self::Other,
        }
    }

    /// Whether the frontend leads to a port of which this name counts.
    pub(crate) fn leads(self, frontend: &str) -> bool {
        self != Self::Other || frontend.is_empty()
    }
}

/// The name under which a pool's frontends lead to a backend, of those under which it is reported; `None` where they do not.
pub(crate) fn matching<'a>(
    pools: impl Iterator<Item = (&'a PoolKey, &'a Pool)>,
    wanted: &PoolKey,
    backend: &Backend,
) -> Option<Match<'a>> {
    let reported = pools.filter(|(key, _)| key.is_alike(wanted)).filter_map(|(key, pool)| {
        let (node, member) = pool.reported(backend)?;
        Some(Match { port_name: &key.port_name, node, member })
    });
    let fit = |found: &Match<'_>| PortFit::of(&wanted.port_name, found.port_name);
    // Several other names may be reported otherwise for a moment: no order of arrival decides which one counts.
    let best = reported
        .min_by_key(|found| (fit(found), found.member.backend_health.condition(), found.port_name));
    best.filter(|best| fit(best).leads(&wanted.port_name))
}

/// Why a frontend leads to a port of another name, as a part of a sentence; `None` where the names are the same.
pub(crate) fn sentence(frontend: &str, name: &str) -> Option<String> {
    match PortFit::of(frontend, name) {
        PortFit::Same => None,
        PortFit::Unnamed => Some(format!("its port has no name, so it also serves {frontend:?}")),
        PortFit::Other => {
            Some(format!("its port is named {name:?}, and the frontend's has no name"))
        }
    }
}
