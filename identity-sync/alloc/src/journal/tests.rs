use super::*;
use crate::candidates::candidates;

fn limit() -> (ClusterId, ClusterLimit) {
    let limit = ClusterLimit::Max255;
    (ClusterId::new(7, limit).unwrap(), limit)
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

const WAIT: Duration = Duration::from_secs(900);
const DAY: u64 = 24 * 3_600;

/// A journal that was not compared with an etcd yet.
fn unrecognised(path: &Path) -> Result<Journal, JournalError> {
    let (cluster, limit) = limit();
    Journal::open(path, cluster, limit, Duration::ZERO, at(0))
}

fn open(path: &Path) -> Result<Journal, JournalError> {
    let mut journal = unrecognised(path)?;
    journal.recognise(&Found::default(), false, at(0)).unwrap();
    Ok(journal)
}

fn labels(app: &str) -> Labels {
    Labels::parse(&format!("k8s:app={app};"))
}

fn allocate(journal: &mut Journal, app: &str, seconds: u64) -> Identity {
    journal.identity(&labels(app), at(seconds)).unwrap()
}

/// A pass at which these label sets are in use.
fn pass(journal: &mut Journal, used: &[&str], seconds: u64) -> (usize, usize, usize) {
    let used: Vec<Labels> = used.iter().map(|app| labels(app)).collect();
    let collected = journal.collect(|_, labels| used.contains(labels), WAIT, at(seconds)).unwrap();
    (collected.marked, collected.cleared, collected.deleted)
}

/// The published IDs with the app of each.
fn published(journal: &mut Journal, known: &mut std::collections::BTreeMap<u32, String>) {
    for (id, labels) in journal.take_changes() {
        match labels {
            Some(labels) => known.insert(id.get(), labels.to_string()),
            None => known.remove(&id.get()),
        };
    }
}

#[test]
fn a_journal_of_another_id_says_which_id_to_set() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("identities.journal");
    allocate(&mut open(&path).unwrap(), "a", 0);
    let (_, limit) = limit();
    let other = ClusterId::new(9, limit).unwrap();
    let error = Journal::open(&path, other, limit, Duration::ZERO, at(1)).unwrap_err().to_string();
    assert!(
        error.contains("say `id: 9`, and the journal is of `id: 7`: set `id: 7` again"),
        "{error}"
    );
}

#[test]
fn remembers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state/identities.journal");
    assert_eq!(read_uuid(&path).unwrap(), None);
    let mut journal = open(&path).unwrap();
    let uuid = journal.uuid();
    let ids = ["a", "b", "a"].map(|app| allocate(&mut journal, app, 0));
    assert_eq!(ids[0], ids[2]);
    assert_ne!(ids[0], ids[1]);
    drop(journal);

    let mut journal = open(&path).unwrap();
    assert_eq!((journal.uuid(), journal.len()), (uuid, 2));
    assert_eq!(read_uuid(&path).unwrap(), Some(uuid));
    assert_eq!(allocate(&mut journal, "b", 0), ids[1]);
}

#[test]
fn two_that_want_an_id_for_one_label_set_get_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let (mut one, mut other) = (open(&path).unwrap(), open(&path).unwrap());
    assert_eq!(one.uuid(), other.uuid());
    let a = allocate(&mut one, "a", 0);
    assert_eq!(allocate(&mut other, "a", 0), a);
    let b = allocate(&mut other, "b", 0);
    assert_eq!(allocate(&mut one, "b", 0), b);
    // What the other gave is published here too.
    let mut known = std::collections::BTreeMap::new();
    published(&mut one, &mut known);
    assert_eq!(known.len(), 2);

    // The other's ID is known by reading, although it is where ours would have begun.
    let (cluster, limit) = limit();
    let first = candidates(&labels("c"), cluster, limit).next().unwrap();
    write_line(&path, &identity(first, &labels("z"), State::Used, 0));
    assert_eq!(allocate(&mut one, "c", 0).get(), first.get() + 1);
    assert_eq!(allocate(&mut other, "c", 0).get(), first.get() + 1);
}

#[test]
fn threads_that_race_agree() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let race = |_| {
        let path = path.clone();
        std::thread::spawn(move || {
            let (cluster, limit) = limit();
            let patience = Duration::from_secs(60);
            let mut journal = Journal::open(&path, cluster, limit, patience, at(0)).unwrap();
            journal.recognise(&Found::default(), false, at(0)).unwrap();
            let of = |n: u32| journal.identity(&labels(&n.to_string()), at(0)).unwrap();
            (0..100).map(of).collect::<Vec<_>>()
        })
    };
    let racers: Vec<_> = (0..3).map(race).collect();
    let got: Vec<Vec<Identity>> = racers.into_iter().map(|r| r.join().unwrap()).collect();
    assert!(got.iter().all(|ids| *ids == got[0]));
    let distinct: std::collections::BTreeSet<_> = got[0].iter().collect();
    assert_eq!(distinct.len(), 100);
}

/// Appends a line as another process would.
fn write_line(path: &Path, entry: &Entry) {
    let mut content = fs::read(path).unwrap();
    content.extend(entry.line().unwrap());
    fs::write(path, content).unwrap();
}

#[test]
fn what_no_pod_uses_is_marked_then_given_back_and_rests_a_day() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = open(&folder.path().join("journal")).unwrap();
    let (cluster, limit) = limit();
    let a = allocate(&mut journal, "a", 0);
    let mut known = std::collections::BTreeMap::new();
    published(&mut journal, &mut known);
    assert_eq!(pass(&mut journal, &["a"], 10), (0, 0, 0));
    assert_eq!(pass(&mut journal, &[], 10), (1, 0, 0));
    published(&mut journal, &mut known);
    assert_eq!(known.len(), 1, "readers may still have addresses with it");
    assert_eq!(pass(&mut journal, &[], 909), (0, 0, 0));
    assert_eq!(pass(&mut journal, &[], 910), (0, 0, 1));
    published(&mut journal, &mut known);
    assert_eq!((known.len(), journal.len()), (0, 0));

    // Its own label set gets it at any time, and those whose first choice it is when it has rested.
    let mut rivals = (0..).map(|n| labels(&format!("rival{n}"))).filter(|rival| {
        let mut candidates = candidates(rival, cluster, limit);
        candidates.next() == Some(a)
    });
    let (early, late) = (rivals.next().unwrap(), rivals.next().unwrap());
    assert_ne!(journal.identity(&early, at(910 + DAY - 1)).unwrap(), a);
    assert_eq!(allocate(&mut journal, "a", 910 + DAY - 1), a);

    assert_eq!(pass(&mut journal, &[], 2 * DAY), (2, 0, 0));
    assert_eq!(pass(&mut journal, &[], 2 * DAY + 900), (0, 0, 2));
    assert_eq!(journal.identity(&late, at(3 * DAY + 900)).unwrap(), a);
    assert_ne!(allocate(&mut journal, "a", 3 * DAY + 900), a);
}

#[test]
fn use_clears_the_mark_whichever_replica_uses_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let (mut one, mut other) = (open(&path).unwrap(), open(&path).unwrap());
    let a = allocate(&mut one, "a", 0);
    assert_eq!(pass(&mut one, &[], 1), (1, 0, 0));
    // Another replica uses it still: its mark is another one from then on.
    assert_eq!(pass(&mut other, &["a"], 500), (0, 1, 0));
    assert_eq!(pass(&mut one, &[], 902), (1, 0, 0), "marked anew, not given back");
    // So does a pod that comes.
    assert_eq!(allocate(&mut other, "a", 1_000), a);
    assert_eq!(pass(&mut one, &["a"], 2_000), (0, 0, 0));
    // One that a replica uses is back although another gave it back.
    assert_eq!(pass(&mut one, &[], 3_000), (1, 0, 0));
    assert_eq!(pass(&mut one, &[], 4_000), (0, 0, 1));
    assert_eq!(pass(&mut other, &["a"], 4_001), (0, 1, 0));
    assert_eq!(allocate(&mut one, "a", 4_002), a);
}

#[test]
fn of_two_ids_of_one_label_set_the_lower_counts_and_the_other_drains() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = open(&path).unwrap();
    let (high, low) = (Identity::new(458_800), Identity::new(458_799));
    write_line(&path, &identity(high, &labels("a"), State::Used, 0));
    assert_eq!(allocate(&mut journal, "a", 0), high);
    write_line(&path, &identity(low, &labels("a"), State::Used, 0));
    assert_eq!(allocate(&mut journal, "a", 0), low);
    let pass = |journal: &mut Journal, seconds| {
        let collected = journal.collect(|id, _| id == low, WAIT, at(seconds)).unwrap();
        (collected.marked, collected.deleted)
    };
    assert_eq!(pass(&mut journal, 0), (1, 0));
    let mut known = std::collections::BTreeMap::new();
    published(&mut journal, &mut known);
    assert_eq!(known.keys().copied().collect::<Vec<_>>(), [low.get(), high.get()]);
    assert_eq!(pass(&mut journal, 900), (0, 1));
    published(&mut journal, &mut known);
    assert_eq!(known.keys().copied().collect::<Vec<_>>(), [low.get()]);
    assert_eq!(allocate(&mut journal, "a", 901), low);
}

#[test]
fn when_none_is_free_it_says_so_until_one_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = open(&path).unwrap();
    let (cluster, limit) = limit();
    let mut content = fs::read(&path).unwrap();
    for id in limit.identities(cluster) {
        let line = identity(Identity::new(id), &labels(&id.to_string()), State::Used, 0).line();
        content.extend(line.unwrap());
    }
    fs::write(&path, content).unwrap();
    let error = journal.identity(&labels("one more"), at(0)).unwrap_err().to_string();
    assert!(error.contains("65536 are in use and 0 rest for up to 24 hours"), "{error}");
    assert_eq!(allocate(&mut journal, "458752", 0).get(), 458_752, "the others go on");

    let all_but_one = |_, labels: &Labels| labels.get("k8s", "app") != Some("458900");
    journal.collect(all_but_one, WAIT, at(0)).unwrap();
    journal.collect(all_but_one, WAIT, at(900)).unwrap();
    let error = journal.identity(&labels("one more"), at(900)).unwrap_err().to_string();
    assert!(error.contains("65535 are in use and 1 rest"), "{error}");
    let freed = journal.identity(&labels("one more"), at(900 + DAY)).unwrap();
    assert_eq!(freed.get(), 458_900);
}

#[test]
fn a_cut_line_is_dropped_and_any_other_damage_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = open(&path).unwrap();
    for app in ["a", "b", "c"] {
        allocate(&mut journal, app, 0);
    }
    drop(journal);
    let whole = fs::read(&path).unwrap();

    fs::write(&path, &whole[..whole.len() - 5]).unwrap();
    assert_eq!(open(&path).unwrap().len(), 2);
    assert!(fs::read(&path).unwrap().ends_with(b"\n"));

    for (from, to, says) in [
        ("app=b", "app=x", "journal:3: checksum"),
        ("\"v\":1", "\"v\":2", "journal:1: version 2"),
        ("\"state\":\"used\"", "\"state\":3", "journal:2: "),
        ("{", "[", "journal:1: "),
    ] {
        let text = String::from_utf8(whole.clone()).unwrap().replacen(from, to, 1);
        fs::write(&path, text).unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains("--adopt-identities"), "{error}");
    }
    // Without its first line its cluster is not known.
    let rest = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
    fs::write(&path, &whole[rest..]).unwrap();
    assert!(open(&path).unwrap_err().to_string().contains("no cluster in the first"));
}

/// What one that runs meets is no worse than what one meets that starts.
#[test]
fn a_running_one_outlives_what_happens_to_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = open(&path).unwrap();
    let a = allocate(&mut journal, "a", 0);
    let whole = fs::read(&path).unwrap();

    fs::remove_file(&path).unwrap();
    let error = journal.identity(&labels("b"), at(0)).unwrap_err().to_string();
    assert!(error.contains("journal is gone: restore it"), "{error}");
    assert_eq!(allocate(&mut journal, "a", 0), a, "what is known is known");
    assert!(journal.revision().is_err());
    fs::write(&path, &whole).unwrap();
    allocate(&mut journal, "b", 0);

    let with_b = fs::read(&path).unwrap();
    fs::write(&path, [with_b.as_slice(), b"rubbish\n"].concat()).unwrap();
    let says =
        |journal: &mut Journal| journal.identity(&labels("c"), at(0)).unwrap_err().to_string();
    assert!(says(&mut journal).contains("journal:4: "), "{}", says(&mut journal));
    fs::write(&path, &with_b).unwrap();
    allocate(&mut journal, "c", 0);

    // Another cluster's is not written to.
    fs::remove_file(&path).unwrap();
    drop(unrecognised(&path).unwrap());
    let theirs = fs::read(&path).unwrap();
    for _ in 0..2 {
        let error = journal.identity(&labels("d"), at(0)).unwrap_err().to_string();
        assert!(error.contains("is now the journal of cluster"), "{error}");
    }
    assert_eq!(fs::read(&path).unwrap(), theirs);
}

#[test]
fn a_long_file_becomes_short_and_says_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let (mut one, mut other) = (open(&path).unwrap(), open(&path).unwrap());
    let a = allocate(&mut one, "a", 0);
    allocate(&mut one, "b", 0);
    assert_eq!(one.record("content", 0, at(0)).unwrap(), Recorded::At(1));
    // `b` comes and goes.
    let mut seconds = 0;
    for _ in 0..600 {
        seconds += 1;
        pass(&mut one, &["a"], seconds);
        pass(&mut one, &["a", "b"], seconds);
    }
    pass(&mut one, &["a"], seconds);
    let long = fs::metadata(&path).unwrap().len();
    one.compact(at(seconds)).unwrap();
    assert!(fs::metadata(&path).unwrap().len() * 100 < long);
    one.compact(at(seconds)).unwrap();

    // A process that has the long one open goes on with the short one, and the mark is as old as it was.
    assert_eq!(allocate(&mut other, "a", seconds), a);
    let c = allocate(&mut other, "c", seconds);
    assert_eq!(allocate(&mut one, "c", seconds), c);
    assert_eq!(other.record("content", 1, at(0)).unwrap(), Recorded::At(1));
    assert_eq!(pass(&mut other, &["a", "c"], seconds + 899), (0, 0, 0));
    assert_eq!(pass(&mut other, &["a", "c"], seconds + 900), (0, 0, 1));
    let uuid = one.uuid();
    assert_eq!(open(&path).unwrap().uuid(), uuid);
}

#[test]
fn the_same_content_is_the_same_revision_and_what_came_later_a_later_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let (mut one, mut other) = (open(&path).unwrap(), open(&path).unwrap());
    assert_eq!(one.record("x", 0, at(0)).unwrap(), Recorded::At(1));
    assert_eq!(other.record("x", 0, at(0)).unwrap(), Recorded::At(1));
    let since = one.revision().unwrap();
    assert_eq!(one.record("y", since, at(0)).unwrap(), Recorded::At(2));
    // The other scanned before, and saw the old content: only another scan shows which is later.
    assert_eq!(other.record("x", 1, at(0)).unwrap(), Recorded::Superseded);
    assert_eq!(other.record("y", 2, at(0)).unwrap(), Recorded::At(2));
    // The old content again is later than what was between.
    assert_eq!(one.record("x", 2, at(0)).unwrap(), Recorded::At(3));
    assert_eq!(other.revision().unwrap(), 3);
    drop((one, other));
    assert_eq!(open(&path).unwrap().record("x", 0, at(0)).unwrap(), Recorded::At(3));
}

#[test]
fn a_journal_of_the_first_version_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    // As written by it; the revision is the end of a block.
    let old = r#"{"v":1,"crc32c":CRC0,"uuid":"00000000-0000-0000-0000-000000000001","unixNano":5}
{"v":1,"crc32c":CRC1,"revision":1048576,"unixNano":6}
{"v":1,"crc32c":CRC2,"id":458800,"labels":"k8s:app=a;","state":"used","unixNano":7}
"#;
    let entries = [
        r#"{"uuid":"00000000-0000-0000-0000-000000000001","unixNano":5}"#,
        r#"{"revision":1048576,"unixNano":6}"#,
        r#"{"id":458800,"labels":"k8s:app=a;","state":"used","unixNano":7}"#,
    ];
    let mut text = old.to_owned();
    for (n, entry) in entries.iter().enumerate() {
        let crc = crc32c::crc32c(entry.as_bytes()).to_string();
        text = text.replace(&format!("CRC{n}"), &crc);
    }
    fs::write(&path, text).unwrap();
    let mut journal = open(&path).unwrap();
    assert_eq!(journal.uuid(), Uuid::from_u128(1));
    assert_eq!(allocate(&mut journal, "a", 0).get(), 458_800);
    assert_eq!(journal.record("x", 1_048_576, at(0)).unwrap(), Recorded::At(1_048_577));
}

#[test]
fn a_new_journal_does_not_take_the_place_of_a_lost_one_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = open(&path).unwrap();
    let a = allocate(&mut journal, "a", 0);
    let identities = vec![(a, labels("a"))];
    let found = Found { uuid: Some(journal.uuid()), identities, revision: 57 };
    let backup = fs::read(&path).unwrap();
    drop(journal);

    fs::remove_file(&path).unwrap();
    let mut new = unrecognised(&path).unwrap();
    let error = new.recognise(&found, false, at(0)).unwrap_err().to_string();
    for says in ["not the one that allocated the 1 identities", "Restore", "--adopt-identities"] {
        assert!(error.contains(says), "{error}");
    }
    let refused = new.identity(&labels("b"), at(0)).unwrap_err();
    assert!(matches!(refused, AllocationError::NotRecognised), "{refused}");
    let no_config = Found { uuid: None, ..found.clone() };
    let error = new.recognise(&no_config, false, at(0)).unwrap_err().to_string();
    assert!(error.contains("the journal has no identity"), "{error}");

    // The way out: what the etcd has.
    assert_eq!(new.record("x", 0, at(0)).unwrap(), Recorded::At(1));
    new.recognise(&found, true, at(0)).unwrap();
    assert_eq!(new.record("x", 57, at(0)).unwrap(), Recorded::At(58), "readers got 57");
    assert_eq!(Some(new.uuid()), found.uuid);
    assert_eq!(allocate(&mut new, "a", 0), a);
    allocate(&mut new, "b", 0);
    drop(new);
    let mut again = unrecognised(&path).unwrap();
    again.recognise(&found, false, at(0)).unwrap();
    assert_eq!((again.len(), allocate(&mut again, "a", 0)), (2, a));

    // The other: the file.
    fs::write(&path, backup).unwrap();
    let mut restored = unrecognised(&path).unwrap();
    restored.recognise(&found, false, at(0)).unwrap();
    assert_eq!(restored.record("x", 57, at(0)).unwrap(), Recorded::At(58));
    assert_eq!(allocate(&mut restored, "a", 0), a);

    // One that has IDs of another cluster is no blank sheet.
    let theirs = Found { uuid: Some(Uuid::from_u128(9)), ..found };
    assert!(restored.recognise(&theirs, true, at(0)).is_err());
}

#[test]
fn what_only_the_etcd_knows_no_other_label_set_gets_for_a_day() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = open(&folder.path().join("journal")).unwrap();
    let b = allocate(&mut journal, "b", 0);
    let (cluster, limit) = limit();
    let a = candidates(&labels("c"), cluster, limit).next().unwrap();
    let second = Identity::new(a.get() + 1);
    let foreign = Identity::new(65_536);
    let identities =
        vec![(a, labels("a")), (b, labels("b")), (second, labels("b")), (foreign, labels("x"))];
    let found = Found { uuid: Some(journal.uuid()), identities, revision: 0 };
    journal.recognise(&found, false, at(0)).unwrap();
    assert_eq!(allocate(&mut journal, "c", 0).get(), a.get() + 2, "both rest, or are allocated");
    assert_eq!(allocate(&mut journal, "a", 0), a);
    assert_eq!(allocate(&mut journal, "b", 0), b);
    assert_eq!(journal.len(), 3);
    journal.recognise(&found, false, at(0)).unwrap();
    assert_eq!(journal.len(), 3);
}

mod model;
