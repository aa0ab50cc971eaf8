//! A cluster's follower begins when the receiver knows of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::time::Duration;

use mesh_peers::PeerMessage;
use tokio::{sync::mpsc, time::timeout};

mod setup;

use setup::Directory;

/// Followers have a thread of their own, which may be faster than the announcement to the receiver: what a cluster
/// reports before the receiver follows it would be lost, and the cluster synced all the same.
#[tokio::test]
async fn no_follower_begins_before_its_cluster_is_announced() {
    let directory = Directory::new().await;
    // There is no room for an announcement.
    let (messages, mut receiver) = mpsc::channel(1);
    messages
        .send(PeerMessage::Read { problems: Vec::new(), complete: false, drained: [].into() })
        .await
        .unwrap();
    directory.follow(messages);
    let early = timeout(Duration::from_millis(500), directory.etcd.accept()).await;
    assert!(early.is_err(), "its etcd is asked already");
    assert!(matches!(receiver.recv().await, Some(PeerMessage::Read { .. })));
    let next = receiver.recv().await;
    assert!(
        matches!(&next, Some(PeerMessage::Follow(name, _)) if name.as_str() == "a"),
        "{next:?}"
    );
    timeout(Duration::from_secs(20), directory.etcd.accept()).await.expect("now it is").unwrap();
}

/// A kubelet takes a peer file away together with its credentials. That the peer's removal is not certain yet is no reason to
/// complain of the credentials.
#[tokio::test]
async fn credentials_that_go_with_their_file_are_no_problem() {
    let directory = Directory::new().await;
    directory.add_peer_with_credentials("b");
    // If the folder became empty, peers would be removed only after a minute.
    directory.add_peer("c");
    let (messages, mut receiver) = mpsc::channel(64);
    directory.follow(messages);
    let mut problems = Vec::new();
    let mut went = false;
    loop {
        let next = timeout(Duration::from_secs(20), receiver.recv()).await.expect("in time");
        match next.expect("it runs") {
            PeerMessage::Read { problems: found, .. } if went => problems.extend(found),
            PeerMessage::Follow(name, _) if name.as_str() == "b" => {
                directory.remove_peer_with_credentials("b");
                went = true;
            }
            PeerMessage::Unfollow(name) if name.as_str() == "b" => break,
            _ => {}
        }
    }
    let of_peer = problems.iter().find(|problem| problem.starts_with("b: "));
    assert_eq!(of_peer, None, "{problems:?}");
}
