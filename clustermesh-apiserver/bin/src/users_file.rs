//! Reads `users.yaml`, which has the users of peers: a file of the cluster directory, or in a ConfigMap.

use std::{
    fmt,
    path::Path,
    sync::{Mutex, PoisonError},
};

use mesh_files::{FolderWatch, Moment, TextFile, TextFolder, until};
use mesh_source_kube::{FollowedUsers, Problems};
use mesh_wire::users_file::UsersFile;
use tokio::sync::{mpsc, watch};

use crate::writer::StoreState;

/// Publishes the content of the file whenever it changes. A missing, empty or invalid file does not mean that there are no
/// peers: the previous content stays in force. The status reports an empty or invalid file.
pub(crate) async fn follow(
    path: &Path,
    users: watch::Sender<Option<UsersFile>>,
    state: &Mutex<StoreState>,
) {
    // Watch the folder, because the file may be replaced by renaming.
    let folder = path.parent().unwrap_or(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut watch = FolderWatch::shallow(folder);
    let log = watch.write_log();
    let mut files = TextFolder::new(folder);
    loop {
        let problem = match files.read(log.take(), Moment::now()) {
            Ok(mut read) => match read.remove(&name) {
                Some(TextFile::Whole(text)) => publish(&text, &users).err(),
                Some(TextFile::Unreadable(error)) => Some(error.to_string()),
                Some(TextFile::BeingWritten) | None => None,
            },
            Err(error) => Some(error.to_string()),
        };
        report(problem.map(|why| kept(&path.display(), &why)), state);
        let next_look = files.next_look();
        tokio::select! {
            () = watch.changed() => {}
            () = until(next_look) => {}
        }
    }
}

/// The same for the ConfigMap, until its follower ends.
pub(crate) async fn follow_config_map(
    mut followed: mpsc::Receiver<FollowedUsers>,
    users: watch::Sender<Option<UsersFile>>,
    state: &Mutex<StoreState>,
) {
    let (mut problems, mut invalid) = (Problems::default(), None);
    while let Some(FollowedUsers { text, problems: found }) = followed.recv().await {
        if let Some(found) = found {
            problems = found;
        }
        if let Some(text) = text {
            let published = publish(&text, &users);
            invalid = published.err().map(|why| kept(&"ConfigMap clustermesh-users", &why));
        }
        report(invalid.clone().or_else(|| problems.sentences("ConfigMap ").next()), state);
    }
}

fn kept(place: &dyn fmt::Display, why: &str) -> String {
    format!("{place}: {why}; the peers' users stay as they are")
}

fn report(problem: Option<String>, state: &Mutex<StoreState>) {
    if let Some(problem) = &problem {
        tracing::warn!(problem, "users.yaml cannot be used");
    }
    state.lock().unwrap_or_else(PoisonError::into_inner).users_file = problem;
}

fn publish(text: &str, users: &watch::Sender<Option<UsersFile>>) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err("it is empty; for no users, write `users: []`".into());
    }
    let file = UsersFile::parse(text).map_err(|error| error.to_string())?;
    users.send_if_modified(|current| {
        let changed = current.as_ref() != Some(&file);
        *current = Some(file);
        changed
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_or_broken_file_removes_no_user() {
        let (sender, receiver) = watch::channel(None);
        let now = || receiver.borrow().clone();
        for text in ["", " \n", "users: [", "users: 3"] {
            assert!(publish(text, &sender).is_err(), "{text:?}");
            assert_eq!(now(), None);
        }
        publish("users:\n- {name: remote-b, role: remote}\n", &sender).unwrap();
        assert!(publish("", &sender).is_err());
        assert_eq!(now().unwrap().users.len(), 1);
        publish("users: []", &sender).unwrap();
        assert_eq!(now(), Some(UsersFile::default()));
    }
}
