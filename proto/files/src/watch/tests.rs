use std::{fs, io, os::unix::fs::symlink};

use super::*;

async fn soon(watch: &mut FolderWatch) {
    time::timeout(Duration::from_secs(5), watch.changed()).await.unwrap();
}

/// Waits until the log has this event for a file.
async fn until(watch: &mut FolderWatch, path: &Path, wanted: Written) {
    let log = watch.write_log();
    let seen = async {
        while log.take().get(path) != Some(&wanted) {
            watch.changed().await;
        }
    };
    time::timeout(Duration::from_secs(5), seen).await.unwrap();
}

#[tokio::test]
async fn sees_writes_and_symlink_swaps() {
    let folder = tempfile::tempdir().unwrap();
    let mut watch = FolderWatch::new(folder.path());
    soon(&mut watch).await;

    fs::create_dir(folder.path().join("one")).unwrap();
    fs::write(folder.path().join("one/file"), "1").unwrap();
    soon(&mut watch).await;

    symlink("one", folder.path().join("..data")).unwrap();
    soon(&mut watch).await;
    symlink("two", folder.path().join("..tmp")).unwrap();
    fs::rename(folder.path().join("..tmp"), folder.path().join("..data")).unwrap();
    soon(&mut watch).await;
}

#[tokio::test]
async fn a_process_has_one_inotify_instance() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("below");
    fs::create_dir(&below).unwrap();
    // Nested folders, the same folder twice, and the same folder by another path.
    let mut watches = [
        FolderWatch::new(folder.path()),
        FolderWatch::shallow(folder.path()),
        FolderWatch::shallow(&below),
        FolderWatch::shallow(&below.join("../below")),
    ];
    for watch in &mut watches {
        soon(watch).await;
    }
    let is_inotify = |entry: io::Result<fs::DirEntry>| {
        let target = entry.and_then(|entry| fs::read_link(entry.path()));
        target.is_ok_and(|target| target.as_os_str() == "anon_inode:inotify")
    };
    let instances = fs::read_dir("/proc/self/fd").unwrap().map(is_inotify);
    assert_eq!(instances.filter(|is| *is).count(), 1);

    // Each watch still works after another one of the same folder was dropped.
    let [deep, shallow, mut one, other] = watches;
    drop((deep, other));
    fs::write(below.join("file"), "1").unwrap();
    soon(&mut one).await;
    let mut shallow = shallow;
    fs::write(folder.path().join("file"), "1").unwrap();
    soon(&mut shallow).await;
}

#[tokio::test]
async fn a_folder_that_is_created_later_or_replaced_is_watched() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("folder");
    let mut watch = FolderWatch::new(&folder);
    watch.write_log();
    fs::create_dir(&folder).unwrap();
    watch.changed().await;
    fs::write(folder.join("file"), "1").unwrap();
    until(&mut watch, &folder.join("file"), Written::Closed).await;

    fs::create_dir(parent.path().join("new")).unwrap();
    fs::rename(&folder, parent.path().join("old")).unwrap();
    fs::rename(parent.path().join("new"), &folder).unwrap();
    soon(&mut watch).await;
    watch.changed().await;
    fs::write(folder.join("other"), "1").unwrap();
    until(&mut watch, &folder.join("other"), Written::Closed).await;
}

#[tokio::test]
async fn the_log_has_how_a_file_was_written() {
    use io::Write as _;
    let folder = tempfile::tempdir().unwrap();
    let [file, hidden] = ["file", ".file.1"].map(|name| folder.path().join(name));
    let mut watch = FolderWatch::new(folder.path());
    watch.write_log();
    soon(&mut watch).await;

    let mut writer = fs::File::create(&file).unwrap();
    writer.write_all(b"half").unwrap();
    until(&mut watch, &file, Written::Partly).await;
    drop(writer);
    until(&mut watch, &file, Written::Closed).await;
    fs::write(&hidden, "all").unwrap();
    fs::rename(&hidden, &file).unwrap();
    until(&mut watch, &file, Written::Renamed).await;
    assert_eq!(fs::read(&file).unwrap(), b"all", "reading is no event");
    fs::File::options().append(true).open(&file).unwrap().write_all(b"more").unwrap();
    until(&mut watch, &file, Written::Closed).await;
}

#[test]
fn without_an_instance_folders_are_polled_every_second_and_that_is_reported() {
    fn none(_: Arc<Subscriptions>) -> notify::Result<Box<dyn Watcher + Send>> {
        Err(notify::Error::io(io::Error::from_raw_os_error(24)))
    }
    let folder = tempfile::tempdir().unwrap();
    let instance = Arc::new(Instance::new(none));
    let watch = FolderWatch::at(Arc::clone(&instance), folder.path(), RecursiveMode::Recursive);
    assert_eq!(watch.patience(), Duration::from_secs(1));
    assert_eq!(FolderWatch::new(folder.path()).patience(), Duration::from_secs(10));
    let problem = lock(&instance.fallback).clone().unwrap();
    assert!(problem.contains("polled every second"), "{problem}");
    assert!(problem.contains("Too many open files"), "{problem}");
    assert!(problem.contains("sysctl -w fs.inotify.max_user_instances="), "{problem}");
}
