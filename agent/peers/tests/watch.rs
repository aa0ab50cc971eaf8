//! Peer files are watched, by one inotify instance for all that a process watches.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::time::Duration;

use tokio::{sync::mpsc, time::timeout};

mod setup;

use setup::{Directory, inotify_instances, until_followed};

/// Half of the time after which folders are looked at that are watched too.
const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_peer_file_is_noticed_by_one_inotify_instance() {
    let directory = Directory::new().await;
    let (messages, mut receiver) = mpsc::channel(64);
    directory.follow(messages);
    let followed = timeout(SOON, until_followed(&mut receiver, "a")).await;
    assert_eq!(followed.expect("the local cluster"), Vec::<String>::new());
    assert_eq!(inotify_instances(), 1, "for the folder, the one above it and all files");
    for name in ["b", "c"] {
        directory.add_peer(name);
        let followed = timeout(SOON, until_followed(&mut receiver, name)).await;
        assert_eq!(followed.expect("it is watched"), Vec::<String>::new());
    }
    assert_eq!(inotify_instances(), 1);
    assert_eq!(mesh_files::watch_fallback(), None);
}
