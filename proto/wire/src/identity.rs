//! Identities, `cilium/state/identities/v1/id/<ID>`: the labels as text.

use mesh_model::{Identity, Labels, Record};

use crate::{
    check::expect,
    error::{DecodeError, Mismatch},
    limits,
    peer::Peer,
};

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
    Ok(Record::Identity(number, labels))
}
