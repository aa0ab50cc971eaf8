//! The order in which IDs are tried for a label set.

use mesh_model::{ClusterId, ClusterLimit, Identity, Labels};
use sha2::{Digest as _, Sha256};

/// All IDs of a cluster, each once, in the order to try them for `labels`: from the hash of the labels' text form
/// upwards, and round.
pub fn candidates(
    labels: &Labels,
    cluster: ClusterId,
    limit: ClusterLimit,
) -> impl Iterator<Item = Identity> + use<> {
    let range = limit.identities(cluster);
    let (start, size) = (*range.start(), range.end() - range.start() + 1);
    let digest = Sha256::digest(labels.to_string());
    let hash = digest.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    let first = u32::try_from(hash % u64::from(size)).unwrap_or(0);
    (0..size).map(move |step| Identity::new(start + (first + step) % size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_at_the_hash_and_goes_round() {
        let labels = Labels::parse("k8s:app=cart;");
        let limit = ClusterLimit::Max255;
        let seven = ClusterId::new(7, limit).unwrap();
        // printf 'k8s:app=cart;' | sha256sum begins with 86905814cbd17980.
        let expected = 458_752 + 0x8690_5814_cbd1_7980_u64 % 65_536;
        let all: Vec<u32> = candidates(&labels, seven, limit).map(Identity::get).collect();
        assert_eq!(u64::from(all[0]), expected);
        assert_eq!(all[1], all[0] + 1);
        assert_eq!(all.len(), 65_536);
        assert!(all.iter().all(|n| limit.identities(seven).contains(n)));
        assert_eq!(*all.last().unwrap(), all[0] - 1);
        assert!(candidates(&labels, ClusterId::NONE, limit).all(|n| n.get() >= 256));
    }
}
