//! Conflicts of this cluster's ID and ranges with those that its peer files grant to other clusters. Clusters that are
//! connected to both accept these only from one of the two.

use std::path::Path;

use ipnet::IpNet;
use mesh_admin::{ProblemCode, v1::Problem};
use mesh_source::cluster_directory::ClusterSettings;
use mesh_wire::peer_file::{Grant, PeerFile};

/// Reads the peer files, and compares their grants. Invalid files are ignored: the agents report them.
pub(crate) fn clashes(peers: &Path, settings: &ClusterSettings) -> Vec<Problem> {
    let files = mesh_files::texts(peers).unwrap_or_default().into_iter();
    let peers = files.filter(|(name, _)| name != settings.name.as_str());
    let grants = peers.filter_map(|(name, text)| {
        let text = text.ok().filter(|text| PeerFile::is_one(text))?;
        Some((name, PeerFile::parse(&text).ok()?.clustermesh?))
    });
    let grants: Vec<(String, Grant)> = grants.collect();
    grants.iter().flat_map(|(peer, grant)| clash(settings, peer, grant)).collect()
}

fn clash(settings: &ClusterSettings, peer: &str, grant: &Grant) -> Vec<Problem> {
    let problem = |what: String| {
        let message = format!(
            "{what}, according to the peer file {peer}: other clusters accept this from only one of the two"
        );
        ProblemCode::ClusterConfig.of_peer(peer, message)
    };
    let id = settings.id.get();
    let id = (grant.id == Some(id)).then(|| format!("the ID {id} is also that of {peer}"));
    let overlap = |list: &str, ours: &[IpNet], theirs: &[IpNet]| {
        let both = ours.iter().flat_map(|ours| theirs.iter().map(move |theirs| (ours, theirs)));
        let mut both =
            both.filter(|(ours, theirs)| ours.contains(*theirs) || theirs.contains(*ours));
        let (ours, theirs) = both.next()?;
        Some(format!("{ours} in {list} of cluster.yaml overlaps with {theirs} of {peer}"))
    };
    let pods = overlap("podCIDRs", &settings.pod_cidrs, &grant.pod_cidrs);
    let services = overlap("serviceCIDRs", &settings.service_cidrs, &grant.pod_cidrs);
    id.into_iter().chain(pods).chain(services).map(problem).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn ids_and_ranges_of_peers_are_conflicts() {
        let folder = tempfile::tempdir().unwrap();
        let write = |id: u16, pods: &str| {
            let file = format!(
                "endpoints:\n- https://b.mesh.cilium.io:2379\ntrusted-ca-file: /a\nkey-file: /b\ncert-file: /c\nclustermesh:\n  id: {id}\n  podCIDRs: [{pods}]\n  nodeCIDRs: [172.31.2.0/24]\n"
            );
            fs::write(folder.path().join("b"), file).unwrap();
        };
        fs::write(folder.path().join("b.etcd-client.crt"), "a certificate").unwrap();
        let text = "name: a\nid: 1\npodCIDRs: [10.1.0.0/16]\nserviceCIDRs: [10.101.0.0/16]\nnodeCIDRs: [172.31.0.0/16]\n";
        let settings = ClusterSettings::parse(text).unwrap();
        let found = || -> Vec<String> {
            clashes(folder.path(), &settings).into_iter().map(|problem| problem.message).collect()
        };
        // Ranges of nodes may overlap.
        write(2, "10.2.0.0/16");
        assert!(found().is_empty());
        write(1, "10.0.0.0/8");
        let says = [
            "the ID 1 is also that of b",
            "10.1.0.0/16 in podCIDRs of cluster.yaml overlaps with 10.0.0.0/8 of b",
            "10.101.0.0/16 in serviceCIDRs of cluster.yaml overlaps with 10.0.0.0/8 of b",
        ];
        let problems = found();
        assert_eq!(problems.len(), 3);
        for (problem, says) in problems.iter().zip(says) {
            assert!(problem.starts_with(says), "{problem}");
        }
        // The problem ends with its cause.
        fs::remove_file(folder.path().join("b")).unwrap();
        assert!(found().is_empty());
    }
}
