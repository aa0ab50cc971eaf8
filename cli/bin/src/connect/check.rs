//! Finds clusters that cannot be in one mesh.

use anyhow::bail;
use ipnet::IpNet;
use uuid::Uuid;

use crate::connect::facts::Facts;

/// Refuses clusters that cannot be in one mesh, before anything is changed. With `replace`, a cluster may have another UUID
/// than the cluster of its name that was connected before.
pub(crate) fn check(one: &Facts, other: &Facts, replace: bool) -> anyhow::Result<()> {
    if one.name() == other.name() {
        bail!("both clusters are called {}: give one of them another name", one.name());
    }
    if one.settings.id == other.settings.id {
        bail!(
            "{} and {} both have the ID {}: give one of them another",
            one.name(),
            other.name(),
            one.settings.id
        );
    }
    if one.settings.limit != other.settings.limit {
        let (one_limit, other_limit) = (one.settings.limit, other.settings.limit);
        bail!(
            "{} has maxConnectedClusters {one_limit}, {} has {other_limit}: all clusters need the same",
            one.name(),
            other.name()
        );
    }
    for (here, there) in [(one, other), (other, one)] {
        let settings = &there.settings;
        if settings.endpoints.is_empty() {
            bail!("{}", there.no_endpoints);
        }
        if settings.pod_cidrs.is_empty() || settings.node_cidrs.is_empty() {
            bail!("{}", there.no_ranges);
        }
        // An address must belong to the pods of one cluster only, and not to another cluster's nodes.
        overlap(here, &here.settings.pod_cidrs, there, &settings.pod_cidrs, "pod")?;
        overlap(here, &here.settings.pod_cidrs, there, &settings.node_cidrs, "node")?;
        // Agents refuse another cluster's pods and nodes at addresses of the local services. The services of two clusters
        // may have the same addresses.
        services_apart(here, there, &settings.pod_cidrs, "pod")?;
        services_apart(here, there, &settings.node_cidrs, "node")?;
        for (name, peer) in &here.peers {
            let grant = peer.clustermesh.iter().filter(|_| name != there.name());
            if grant.clone().any(|grant| grant.id == Some(settings.id.get())) {
                bail!(
                    "{} has the ID {}, which {name} has already, a peer of {}: give it another",
                    there.name(),
                    settings.id,
                    here.name()
                );
            }
            for granted in grant.flat_map(|grant| &grant.pod_cidrs) {
                if let Some(range) = settings.pod_cidrs.iter().find(|range| touch(range, granted)) {
                    bail!(
                        "the pod range {range} of {} overlaps {granted} of {name}, which is a peer of {} already",
                        there.name(),
                        here.name()
                    );
                }
            }
        }
        match (known_uuid(here, there), there.uuid) {
            (Some(known), Some(found)) if known != found && !replace => bail!(
                "{} is connected to another cluster called {} ({known}, this one is {found}): it was rebuilt, or it is another cluster. To replace that cluster by this one, add --replace",
                here.name(),
                there.name()
            ),
            (Some(known), None) => bail!(
                "{} has no UUID yet, and {} is connected to {known} of that name: start its apiserver once, then connect with --replace",
                there.name(),
                here.name()
            ),
            _ => {}
        }
    }
    Ok(())
}

/// The UUID that the other cluster had when it was connected.
pub(crate) fn known_uuid(here: &Facts, there: &Facts) -> Option<Uuid> {
    here.peer(there.name())?.clustermesh.as_ref()?.uuid
}

fn overlap(
    here: &Facts,
    ours: &[IpNet],
    there: &Facts,
    theirs: &[IpNet],
    kind: &str,
) -> anyhow::Result<()> {
    for range in ours {
        if let Some(other) = theirs.iter().find(|other| touch(range, other)) {
            bail!(
                "the pod range {range} of {} overlaps the {kind} range {other} of {}: clusters of a mesh need pod ranges of their own",
                here.name(),
                there.name()
            );
        }
    }
    Ok(())
}

fn services_apart(here: &Facts, there: &Facts, theirs: &[IpNet], kind: &str) -> anyhow::Result<()> {
    for range in &here.settings.service_cidrs {
        if let Some(other) = theirs.iter().find(|other| touch(range, other)) {
            bail!(
                "the service range {range} of {} overlaps the {kind} range {other} of {}: its agents would refuse those addresses",
                here.name(),
                there.name()
            );
        }
    }
    Ok(())
}

fn touch(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}
