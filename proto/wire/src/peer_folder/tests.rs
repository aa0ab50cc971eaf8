use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;

const B: &str = "endpoints: ['https://b.mesh.cilium.io:2379']";
const C: &str = "endpoints: ['https://c.mesh.cilium.io:2379']";

fn name(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

fn files(files: &[(&str, &str)]) -> FoundFolder {
    let text = |(name, text): &(&str, &str)| ((*name).to_owned(), FoundFile::Text((*text).into()));
    FoundFolder::Files(files.iter().map(text).collect())
}

struct Folder {
    folder: PeerFolder,
    start: Instant,
}

impl Folder {
    fn new(previous: &[&str]) -> Self {
        let folder = PeerFolder::new("peers", name("a"), previous.iter().map(|n| name(n)));
        Self { folder, start: Instant::now() }
    }

    /// A look, `at` milliseconds after the start.
    fn look(&mut self, found: FoundFolder, at: u64) -> Reading {
        let after = Duration::from_millis(at);
        self.folder.look(found, self.start + after, SystemTime::UNIX_EPOCH + after)
    }

    /// The names of the peers after a look.
    fn peers(&mut self, found: FoundFolder, at: u64) -> String {
        let reading = self.look(found, at);
        reading.peers.keys().map(ClusterName::as_str).collect::<Vec<_>>().join(" ")
    }

    fn at(&self, at: u64) -> Instant {
        self.start + Duration::from_millis(at)
    }
}

#[test]
fn peers_have_the_names_of_their_files() {
    let mut folder = Folder::new(&[]);
    let mut found = files(&[
        ("b", B),
        ("a", "endpoints: 3"),
        ("No_Name", B),
        ("b.etcd-client.crt", "-----BEGIN CERTIFICATE-----"),
    ]);
    let FoundFolder::Files(all) = &mut found else { unreachable!() };
    all.insert("b.etcd-client.key".into(), FoundFile::Binary);
    let reading = folder.look(found, 0);
    assert_eq!(reading.peers.keys().map(ClusterName::as_str).collect::<Vec<_>>(), ["b"]);
    assert_eq!(
        reading.problems,
        [r#"peers/No_Name: "No_Name" is not a cluster name; the file is ignored"#]
    );
    assert!(reading.complete && reading.next_look.is_none());
}

#[test]
fn an_empty_or_invalid_file_leaves_its_peer_as_it_was() {
    let mut folder = Folder::new(&[]);
    let before = folder.look(files(&[("b", B)]), 0).peers;
    for (text, says) in [
        ("", "peers/b: it is empty. The peer stays as it was; to remove a peer, remove its file"),
        (" \n", "peers/b: it is empty. "),
        ("garbage", "peers/b: it is not a peer file: it has no `endpoints`. The peer stays"),
        ("endpoints: [", "peers/b: not a peer file: "),
        ("endpoints: []", "peers/b: `endpoints` is empty. The peer stays"),
    ] {
        // Also after a long time.
        for at in [1_000, 10_000_000] {
            let reading = folder.look(files(&[("b", text)]), at);
            assert_eq!(reading.peers, before, "{text}");
            assert!(reading.problems[0].starts_with(says), "{reading:?}");
            assert!(reading.complete && reading.next_look.is_none());
        }
    }
    let unreadable = FoundFile::Unreadable("Permission denied".into());
    for file in [FoundFile::Binary, unreadable, FoundFile::BeingWritten] {
        let found = FoundFolder::Files(BTreeMap::from([("b".to_owned(), file)]));
        assert_eq!(folder.look(found, 20_000_000).peers, before);
    }
    // The kernel may have entries of a peer whose file cannot be read.
    let reading = folder.look(files(&[("b", B), ("c", "")]), 20_000_001);
    assert!(!reading.complete);
    assert_eq!(
        reading.problems,
        [
            "peers/c: it is empty. There is no peer with that name yet; to remove a peer, remove its file"
        ]
    );
}

#[test]
fn a_peer_is_removed_when_its_file_is_missing_in_two_looks_a_second_apart() {
    let mut folder = Folder::new(&[]);
    folder.look(files(&[("b", B), ("c", C)]), 0);
    let reading = folder.look(files(&[("b", B)]), 5_000);
    assert_eq!((reading.peers.len(), reading.next_look), (2, Some(folder.at(6_000))));
    // The file exists again, as after an editor wrote it. The peer stays, and the time counts again from zero.
    assert_eq!(folder.look(files(&[("b", B), ("c", C)]), 5_500).next_look, None);
    assert_eq!(folder.peers(files(&[("b", B)]), 8_000), "b c");
    assert_eq!(folder.peers(files(&[("b", B)]), 8_999), "b c");
    assert_eq!(folder.peers(files(&[("b", B)]), 9_000), "b");
    // The last peer is removed like any other: `disconnect` leaves an empty folder.
    assert_eq!(folder.peers(files(&[]), 10_000), "b");
    assert_eq!(folder.peers(files(&[]), 11_000), "");

    let removed: Vec<_> = folder.folder.removed(folder.at(12_000)).cloned().collect();
    assert_eq!(removed.len(), 2, "the last one first");
    assert_eq!((removed[0].name.as_str(), removed[1].name.as_str()), ("b", "c"));
    assert_eq!(removed[1].reason.to_string(), "its file peers/c was removed");
    assert_eq!(removed[1].at, SystemTime::UNIX_EPOCH + Duration::from_millis(9_000));
    assert_eq!(folder.folder.removed(folder.at(9_000 + 3_600_000)).count(), 1, "for an hour");
}

#[test]
fn a_missing_folder_removes_no_peer() {
    let mut folder = Folder::new(&[]);
    // Neither a folder nor a peer from the previous run: there are no peers.
    let reading = folder.look(FoundFolder::Missing, 0);
    assert!(reading.complete && reading.problems.is_empty());
    folder.look(files(&[("b", B)]), 1_000);
    folder.look(files(&[]), 2_000);
    for (found, says) in [
        (FoundFolder::Missing, "peers: it does not exist. All peers stay"),
        (FoundFolder::Unreadable("Input/output error".into()), "peers: Input/output error. All"),
    ] {
        let reading = folder.look(found, 900_000);
        assert_eq!((reading.peers.len(), reading.complete), (1, false));
        assert!(reading.problems[0].starts_with(says), "{reading:?}");
    }
    // The time counts again from zero.
    assert_eq!(folder.peers(files(&[]), 900_001), "b");
    assert_eq!(folder.peers(files(&[]), 901_001), "");
    // A missing folder is a problem even if there are no peers left.
    assert_eq!(folder.look(FoundFolder::Missing, 902_000).problems.len(), 1);
}

#[test]
fn peers_of_the_previous_run_stay_while_the_folder_is_empty() {
    // The folder is empty, as before a late mount.
    let mut folder = Folder::new(&["a", "b", "c"]);
    assert!(!folder.look(FoundFolder::Missing, 0).complete);
    let reading = folder.look(files(&[]), 1_000);
    assert!(!reading.complete);
    assert!(reading.problems[0].contains("the previous run had the peers b, c."), "{reading:?}");
    assert_eq!(reading.next_look, Some(folder.at(61_000)));
    // The volume is mounted, and one peer no longer has a file.
    let reading = folder.look(files(&[("b", B)]), 20_000);
    assert_eq!((reading.peers.len(), reading.complete), (1, false), "a second look follows");
    assert!(folder.look(files(&[("b", B)]), 21_000).complete);
    let removed: Vec<String> =
        folder.folder.removed(folder.at(21_000)).map(|gone| gone.reason.to_string()).collect();
    assert_eq!(removed, ["the previous run had it, but there is no file peers/c"]);

    // The folder stays empty: the peer was disconnected between the two runs.
    let mut folder = Folder::new(&["b"]);
    assert!(!folder.look(files(&[]), 0).complete);
    assert!(!folder.look(files(&[]), 59_999).complete);
    assert!(folder.look(files(&[]), 60_000).complete);
    // An empty file may become the peer's.
    let mut folder = Folder::new(&["b"]);
    assert!(!folder.look(files(&[("b", "")]), 0).complete);
    assert!(!folder.look(files(&[("b", "")]), 600_000).complete);
}

/// What an operator does with a folder of one peer file.
#[derive(Clone, Debug)]
enum Step {
    Write(&'static str),
    Remove,
    Hide,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        prop::sample::select(vec![B, "", "garbage", "endpoints: ["]).prop_map(Step::Write),
        Just(Step::Remove),
        Just(Step::Hide),
        (1..2_000_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// With a look every 100 ms: the peer exists from its first valid file on, until the folder has been without its file for
    /// one second without interruption.
    #[test]
    fn only_a_file_that_stays_missing_removes_a_peer(steps in vec(step(), 1..30)) {
        let mut folder = Folder::new(&[]);
        let (mut found, mut now) = (files(&[]), 0);
        // The model: whether it is a peer, and for how many looks its file has been missing.
        let (mut is_peer, mut gone) = (false, 0);
        for step in steps {
            let mut looks = 1;
            match step {
                Step::Write(text) => found = files(&[("b", text)]),
                Step::Remove => found = files(&[]),
                Step::Hide => found = FoundFolder::Missing,
                Step::Wait(time) => looks += time / 100,
            }
            for _ in 0..looks {
                let peers = folder.peers(found.clone(), now);
                now += 100;
                let file = match &found {
                    FoundFolder::Files(files) => Some(files.get("b")),
                    _ => None,
                };
                match file {
                    Some(Some(FoundFile::Text(text))) => {
                        gone = 0;
                        is_peer |= text == B;
                    }
                    Some(_) => gone += 1,
                    None => gone = 0,
                }
                is_peer &= gone <= 10;
                prop_assert_eq!(peers == "b", is_peer, "{} looks without a file", gone);
            }
        }
    }
}
