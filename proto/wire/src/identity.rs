//! Identities, `cilium/state/identities/v1/id/<ID>`: the labels as text.

use mesh_model::{Identity, Label, Labels, Record};

use crate::{
    check::expect,
    error::{DecodeError, Mismatch},
    limits,
    peer::{Peer, Role},
};

/// Labels of these sources are of pods. A peer's labels of any other source are left out.
const OF_PODS: [&str; 3] = ["k8s", "container", "unspec"];
/// Labels of these sources say that something is no pod, or where it is: a cluster may say so of what is its own, to itself
/// only. A peer's identity with one is refused.
const NEVER_A_PEERS: [&str; 6] = ["reserved", "cidr", "cidrgroup", "fqdn", "node", "ingress"];

pub(crate) fn encode(labels: &Labels) -> Vec<u8> {
    labels.to_string().into_bytes()
}

pub(crate) fn decode(peer: &Peer, number: Identity, value: &[u8]) -> Result<Record, DecodeError> {
    let labels = Labels::parse(std::str::from_utf8(value)?);
    limits::identity_labels(&labels)?;
    match labels.cluster() {
        Some(cluster) => expect("the cluster label", cluster, peer.name.as_str())?,
        None => {
            return Err(DecodeError::Mismatch(Mismatch {
                field: "the cluster label",
                found: "absent".into(),
                expected: peer.name.to_string(),
            }));
        }
    }
    match peer.role {
        Role::Local => Ok(Record::Identity(number, labels)),
        Role::Remote => Ok(Record::Identity(number, of_pods(&labels)?)),
    }
}

/// The labels that a peer may give a pod of its own.
fn of_pods(labels: &Labels) -> Result<Labels, DecodeError> {
    if let Some((source, key, _)) =
        labels.iter().find(|(source, ..)| NEVER_A_PEERS.contains(source))
    {
        return Err(DecodeError::LabelSource { of: source.into(), key: key.into() });
    }
    let of_pods = labels.iter().filter(|(source, ..)| OF_PODS.contains(source));
    let label = |(source, key, value): (&str, &str, &str)| Label {
        source: source.into(),
        key: key.into(),
        value: value.into(),
    };
    Ok(of_pods.map(label).collect())
}

#[cfg(test)]
mod tests {
    use mesh_model::{ClusterId, ClusterLimit, ClusterName};

    use super::*;
    use crate::key::Layout;

    fn decoded(role: Role, text: &str) -> Result<Labels, String> {
        let limit = ClusterLimit::Max255;
        let peer = Peer {
            name: ClusterName::new("b").unwrap(),
            role,
            id: ClusterId::new(2, limit).unwrap(),
            limit,
            layout: Layout::State,
        };
        let text = format!("{text};k8s:{}=b;", mesh_model::identity::CLUSTER_LABEL);
        match decode(&peer, Identity::new(131_073), text.as_bytes()) {
            Ok(Record::Identity(_, labels)) => Ok(labels),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn what_a_peer_may_not_claim_by_a_label() {
        for source in NEVER_A_PEERS {
            let claim = format!("k8s:app=web;{source}:host=");
            let refused = decoded(Role::Remote, &claim).unwrap_err();
            assert!(refused.contains(&format!("{source}:host")), "{refused}");
            // What the local cluster says of itself is its own matter.
            assert_eq!(decoded(Role::Local, &claim).unwrap().len(), 3);
        }
        assert!(decoded(Role::Remote, "$host").is_err(), "the short form of reserved");
        assert!(decoded(Role::Remote, "reserved.host").is_err());
    }

    #[test]
    fn labels_of_pods_are_taken_and_others_left_out() {
        let labels = decoded(Role::Remote, "k8s:a=1;container:b=2;c=3;any:d=4;mesos:e=5").unwrap();
        let kept: Vec<(&str, &str)> = labels.iter().map(|(source, key, _)| (source, key)).collect();
        assert_eq!(
            kept,
            [
                ("k8s", "a"),
                ("container", "b"),
                ("unspec", "c"),
                ("k8s", mesh_model::identity::CLUSTER_LABEL)
            ]
        );
    }
}
