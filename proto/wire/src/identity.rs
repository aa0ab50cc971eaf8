//! Identities, `cilium/state/identities/v1/id/<number>`: the label list as text.

use mesh_model::{Identity, Labels, Record};

use crate::record::{DecodeError, Mismatch, Peer, expect};

/// More than a pod's labels, its namespace's and Kubernetes' own limits on both can add up to in earnest.
const MAX_BYTES: usize = 64 * 1024;

pub(crate) fn encode(labels: &Labels) -> Vec<u8> {
    labels.to_string().into_bytes()
}

pub(crate) fn decode(peer: &Peer, number: Identity, value: &[u8]) -> Result<Record, DecodeError> {
    if value.len() > MAX_BYTES {
        return Err(DecodeError::TooLarge { what: "bytes of labels", limit: MAX_BYTES });
    }
    let labels = Labels::parse(std::str::from_utf8(value)?);
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
    Ok(Record::Identity(number, labels))
}
