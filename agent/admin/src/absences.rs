//! What has no frontend or is refused, and why: what explanations of frontends cannot show.

use mesh_admin::v1::Absence;
use mesh_model::{ClusterName, RecordKey, ServiceName};
use mesh_node::{
    Node,
    absences::{leads_nowhere, namespace_not_global, refused_cluster},
};
use mesh_wire::{Key, Layout};

use crate::wanted::Wanted;

/// How many refused records of a cluster are listed at most: status has their number.
const REFUSED: usize = 100;

/// The parts of a service that lead nowhere, or to its own cluster only.
pub(crate) fn of_service(node: &Node, service: &ServiceName) -> Vec<Absence> {
    let (local, merge) = (node.core.local(), node.core.merge());
    let mut all: Vec<Absence> = is_closed(node, service)
        .then(|| namespace_not_global(local, service))
        .into_iter()
        .collect();
    all.extend(
        merge.local_service(service).into_iter().flat_map(|known| leads_nowhere(local, known)),
    );
    all
}

/// Whether a service's namespace takes no part here.
pub(crate) fn is_closed(node: &Node, service: &ServiceName) -> bool {
    let namespace = node.core.merge().local_namespace(&service.namespace);
    namespace.is_some_and(|of| !of.global)
}

/// Of other clusters, what is refused of a service, or of all: whole clusters, and records.
pub fn refused(node: &Node, wanted: &Wanted) -> Vec<Absence> {
    let core = &node.core;
    let of_cluster = |name: &ClusterName| {
        let whole = refused_cluster(name, core.quarantined(name), node.status(name).failure);
        let records = core.refused_records(name);
        let records = records.filter_map(|(key, why)| refused_record(name, key, why, wanted));
        whole.into_iter().chain(records.take(REFUSED)).collect::<Vec<_>>()
    };
    core.peers().filter(|name| *name != core.local()).flat_map(of_cluster).collect()
}

/// A record that has backends of a service that is wanted. The key of a slice does not name its service.
fn refused_record(
    cluster: &ClusterName,
    record: &RecordKey,
    why: &str,
    wanted: &Wanted,
) -> Option<Absence> {
    let service = match record {
        RecordKey::Service(name) => Some(name.clone()).filter(|name| wanted.is(name)),
        RecordKey::EndpointSlice(slice) => {
            let may_be = wanted.namespace.is_empty() || *slice.namespace == *wanted.namespace;
            return may_be.then(|| refused_key(cluster, record, why));
        }
        _ => return None,
    }?;
    Some(Absence {
        namespace: service.namespace.to_string(),
        name: service.name.to_string(),
        ..refused_key(cluster, record, why)
    })
}

fn refused_key(cluster: &ClusterName, record: &RecordKey, why: &str) -> Absence {
    Absence {
        cluster: cluster.to_string(),
        key: Key::of_record(Layout::State, cluster, record.clone()).to_string(),
        why: "refused".into(),
        reason: format!("refused: {why}"),
        ..Absence::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ClusterName {
        ClusterName::new(text).unwrap()
    }

    #[test]
    fn a_refused_record_is_listed_with_its_key_where_it_may_be_of_the_service() {
        let wanted =
            |namespace: &str, name: &str| Wanted { namespace: namespace.into(), name: name.into() };
        let service = RecordKey::Service(ServiceName::new("shop", "web"));
        for (wanted, listed) in [
            (wanted("", ""), true),
            (wanted("shop", "web"), true),
            (wanted("shop", "api"), false),
            (wanted("other", "web"), false),
        ] {
            let found = refused_record(&name("b"), &service, "it is ours", &wanted);
            assert_eq!(found.is_some(), listed, "{wanted:?}");
            let Some(found) = found else { continue };
            assert_eq!(found.key, "cilium/state/services/v1/b/shop/web");
            assert_eq!(
                (found.why.as_str(), found.reason.as_str()),
                ("refused", "refused: it is ours")
            );
        }
        let other = RecordKey::Node("n1".into());
        assert_eq!(refused_record(&name("b"), &other, "", &wanted("", "")), None);
    }
}
