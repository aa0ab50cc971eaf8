//! Backends in pools under whose names they are not reported: `port_names` says which.

use std::{collections::BTreeSet, sync::Arc};

use mesh_model::{
    ServiceName,
    lb::{Backend, Change},
};

use super::Balancer;
use crate::{
    pool::{Member, Moved, PoolKey},
    port_names::{Match, matching},
};

impl Balancer {
    /// What is reported of a backend under a name is otherwise than before: so it may be in pools of other names.
    pub(super) fn update_other_names(
        &mut self,
        name: &Arc<ServiceName>,
        key: &PoolKey,
        backend: &Backend,
        changes: &mut Vec<Change>,
    ) {
        let Some(service) = self.services.get(name) else { return };
        let alike = service.pools.iter().filter(|(other, _)| other.is_alike(key));
        // A port without a name leads to all others' pools as long as it has none.
        let is_unnamed = alike
            .clone()
            .any(|(other, pool)| other.port_name.is_empty() && pool.reported(backend).is_some());
        let others = alike.filter(|(other, pool)| {
            *other != key && !pool.frontends.is_empty() && (is_unnamed || other.may_share(key))
        });
        for other in others.map(|(other, _)| other.clone()).collect::<Vec<_>>() {
            let moved = self.place_by_other_name(name, &other, backend);
            self.settle_moved(name, &other, moved.into_iter().collect(), changes);
        }
    }

    /// Puts a backend that is not reported under a pool's name there, or takes it out, as its other names say.
    pub(super) fn place_by_other_name(
        &mut self,
        name: &Arc<ServiceName>,
        key: &PoolKey,
        backend: &Backend,
    ) -> Option<Moved> {
        let service = self.services.get_mut(name)?;
        let pool = service.pools.get(key)?;
        if pool.reported(backend).is_some() {
            return None;
        }
        let found = (!pool.frontends.is_empty())
            .then(|| matching(service.pools.iter(), key, backend))
            .flatten();
        let found = found.map(|Match { node, member, .. }| (Arc::clone(node), member.clone()));
        let pool = service.pools.get_mut(key)?;
        let Some((node, member)) = found else { return pool.remove(backend) };
        self.nodes.add(backend.cluster, &node, name);
        Some(pool.set(*backend, node, Member { by_other_name: true, ..member }))
    }

    /// Puts all backends that are reported under other names where a pool's first frontend leads to them.
    pub(super) fn add_by_other_names(
        &mut self,
        name: &Arc<ServiceName>,
        key: &PoolKey,
    ) -> Vec<Moved> {
        let pools = self.services.get(name).into_iter().flat_map(|service| &service.pools);
        let others = pools.filter(|(other, _)| other.may_share(key));
        let backends = others.flat_map(|(_, pool)| pool.members());
        let reported = backends.filter(|(_, member)| !member.by_other_name);
        let reported: BTreeSet<Backend> = reported.map(|(location, _)| location.backend).collect();
        reported.iter().filter_map(|backend| self.place_by_other_name(name, key, backend)).collect()
    }
}
