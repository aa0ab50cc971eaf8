//! Without an inotify instance, peer files are polled every second, and that is reported as a problem.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::time::Duration;

use tokio::{sync::mpsc, time::timeout};

mod setup;

use setup::{Directory, inotify_instances, until_followed};

/// A look a second, and a second until a file counts as whole whose writer was not seen; and less than the time after which
/// folders are looked at that are watched.
const WITHIN: Duration = Duration::from_secs(8);

#[tokio::test]
async fn without_an_instance_peer_files_are_looked_at_every_second_and_that_is_reported() {
    mesh_files::exhaust_instances();
    let directory = Directory::new().await;
    let (messages, mut receiver) = mpsc::channel(64);
    directory.follow(messages);
    for name in ["a", "b"] {
        if name != "a" {
            directory.add_peer(name);
        }
        let problems = timeout(WITHIN, until_followed(&mut receiver, name)).await;
        let problems = problems.expect("it is looked at");
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("is polled every second"), "{problems:?}");
        assert!(problems[0].contains("fs.inotify.max_user_instances"), "{problems:?}");
    }
    assert_eq!(inotify_instances(), 0);
}
