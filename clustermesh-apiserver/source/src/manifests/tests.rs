use std::{
    fs::{self, File},
    io::Write as _,
    time::Duration,
};

use mesh_files::QUIET;

use super::*;

/// A folder with the test's clock.
struct Folder {
    folder: tempfile::TempDir,
    source: ManifestsSource,
    start: Moment,
    /// Milliseconds since the start.
    ms: u64,
}

impl Folder {
    /// A folder that has not changed for a while, so that no program seems to be filling it.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = ManifestsSource::new(folder.path(), ResourceVersion::default());
        let start = Moment::now();
        Self { folder, source, start, ms: 10_000 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn now(&self) -> Moment {
        let after = Duration::from_millis(self.ms);
        Moment { now: self.start.now + after, wall: self.start.wall + after }
    }

    /// Sets the modification time to the test's clock.
    fn stamp(&self, path: &Path) {
        File::open(path).unwrap().set_modified(self.now().wall).unwrap();
    }

    /// Replaces a file atomically.
    fn write(&mut self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(self.path(".tmp"), text).unwrap();
        self.stamp(&self.path(".tmp"));
        fs::rename(self.path(".tmp"), &path).unwrap();
        self.source.note_written([(path, Written::Renamed)]);
    }

    /// Writes a part of a file without replacing it, as a shell does for `>`.
    fn write_partly(&mut self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        self.stamp(&self.path(name));
        self.source.note_written([(self.path(name), Written::Partly)]);
    }

    fn close(&mut self, name: &str) {
        self.source.note_written([(self.path(name), Written::Closed)]);
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// The events of a scan after some milliseconds, in short: `+key`, `-key`, `listed`.
    fn after(&mut self, ms: u64) -> Vec<String> {
        self.ms += ms;
        let events = self.source.scan(self.now()).unwrap().into_iter();
        events
            .filter_map(|event| match event {
                SourceEvent::Applied { object, .. } => Some(format!("+{}", object.key())),
                SourceEvent::Deleted { key, .. } => Some(format!("-{key}")),
                SourceEvent::Listed { kind: Kind::Node, .. } => Some("listed".into()),
                _ => None,
            })
            .collect()
    }

    fn scan(&mut self) -> Vec<String> {
        self.after(20)
    }

    fn fails(&mut self) -> ScanError {
        let now = self.now();
        self.source.scan(now).unwrap_err()
    }

    /// In how many milliseconds another scan is necessary.
    fn next(&self) -> Option<u128> {
        Some(self.source.next_look()?.duration_since(self.now().now).as_millis())
    }

    fn problems(&self) -> Vec<String> {
        let folder = format!("{}/", self.folder.path().display());
        self.source.problems().iter().map(|p| p.to_string().replace(&folder, "")).collect()
    }
}

fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
}

fn namespaces(names: &[&str]) -> String {
    names.iter().map(|name| namespace(name)).collect::<Vec<_>>().join("---\n")
}

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.101.0.10, selector: {app: web}, ports: [{port: 80}]}
";

fn pod(ready: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, namespace: shop, labels: {{app: web}}}}\nstatus: {{podIP: 10.1.1.1, conditions: [{{type: Ready, status: '{ready}'}}]}}\n"
    )
}

#[test]
fn files_are_added_changed_and_removed() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &namespace("one"));
    folder.write("sub/b.yml", &namespace("two"));
    folder.write(".hidden.yaml", "[");
    folder.write("notes.txt", "[");
    assert_eq!(folder.scan(), ["+Namespace one", "+Namespace two", "listed"]);
    assert!(folder.scan().is_empty());
    assert_eq!(folder.next(), None);

    folder.write("sub/b.yml", &namespace("three"));
    assert_eq!(folder.scan(), ["+Namespace three", "-Namespace two"]);
    folder.remove("a.yaml");
    assert!(folder.scan().is_empty(), "a removed file needs a second look");
    assert_eq!(folder.next(), Some(1_000));
    assert_eq!(folder.after(1_000), ["-Namespace one"]);
    folder.write("sub/b.yml", "");
    assert!(folder.scan().is_empty(), "and so does an empty one");
    assert_eq!(folder.next(), Some(1_000));
    assert_eq!(folder.after(1_000), ["-Namespace three"]);
    assert_eq!(folder.next(), None);
}

#[test]
fn a_file_that_is_not_written_atomically_removes_nothing() {
    let mut folder = Folder::new();
    folder.write("all.yaml", &namespaces(&["one", "two", "three"]));
    assert_eq!(folder.scan().len(), 4);
    // `(sleep 1; kubectl get … -o yaml) > all.yaml`
    folder.write_partly("all.yaml", "");
    assert!(folder.scan().is_empty());
    assert!(folder.after(900).is_empty());
    // The command begins to write, with objects in another order. The last one may be truncated.
    folder.write_partly("all.yaml", &namespaces(&["four", "two", "five"]));
    assert_eq!(folder.scan(), ["+Namespace four"], "new objects are used at once");
    folder.close("all.yaml");
    assert_eq!(folder.scan(), ["+Namespace five"], "the last one is used after the file is closed");
    assert_eq!(folder.next(), Some(980));
    assert!(folder.problems().is_empty());
    assert_eq!(
        folder.after(980),
        ["-Namespace one", "-Namespace three"],
        "the file has not changed for a second"
    );
    // The same again, but no watch sees the file being closed.
    folder.write_partly("all.yaml", &namespace("six"));
    assert!(folder.scan().is_empty());
    assert!(folder.after(9_999).is_empty());
    assert_eq!(folder.after(1).len(), 4, "+six, and what it lacks");
}

#[test]
fn a_checkout_of_another_version_removes_only_what_it_lacks() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &namespaces(&["one", "two"]));
    folder.write("b.yaml", &namespace("three"));
    folder.scan();
    // `git checkout` removes a file and writes another one. Here an object moves from one file to the other.
    folder.remove("a.yaml");
    assert!(folder.scan().is_empty());
    folder.write_partly("a.yaml", &namespace("one"));
    folder.close("a.yaml");
    folder.remove("b.yaml");
    assert!(folder.scan().is_empty());
    folder.write_partly("b.yaml", &namespaces(&["two", "three"]));
    folder.close("b.yaml");
    assert!(folder.scan().is_empty());
    assert!(folder.problems().is_empty(), "what moved is nowhere twice: {:?}", folder.problems());
    assert!(folder.after(1_000).is_empty(), "nothing was removed at any time");
    folder.remove("b.yaml");
    folder.scan();
    assert_eq!(folder.after(1_000), ["-Namespace three", "-Namespace two"]);
}

#[test]
fn a_truncated_object_is_not_used() {
    let mut folder = Folder::new();
    let opted_out = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: secret\n  annotations:\n    clustermesh.cilium.io/global: 'false'\n";
    let cut = &opted_out[..opted_out.find("  annotations").unwrap()];
    // In a new file, and in an existing one.
    for text in [cut.to_owned(), format!("{}---\n{cut}", namespace("first"))] {
        folder.write_partly("ns.yaml", &text);
        assert!(folder.after(20).iter().all(|event| !event.contains("secret")), "{text}");
        folder.write_partly("ns.yaml", &text.replace(cut, opted_out));
        folder.close("ns.yaml");
        folder.scan();
        folder.after(1_000);
        folder.write_partly("ns.yaml", &text);
        assert_eq!(folder.scan(), Vec::<String>::new(), "it stays as it was");
        folder.write_partly("ns.yaml", &text.replace(cut, opted_out));
        folder.close("ns.yaml");
        folder.after(2_000);
    }
}

#[test]
fn nothing_is_complete_while_another_process_may_be_writing() {
    // A file that is being written.
    let mut folder = Folder::new();
    folder.write_partly("a.yaml", &namespaces(&["one", "two"]));
    assert_eq!(folder.scan(), ["+Namespace one"]);
    assert_eq!(folder.after(10_000), ["+Namespace two", "listed"]);
    // A folder that is being filled: its entries have just changed.
    let mut folder = Folder::new();
    folder.write("a.yaml", &namespace("one"));
    folder.stamp(folder.folder.path());
    assert_eq!(folder.scan(), ["+Namespace one"]);
    folder.ms += 500;
    folder.write("b.yaml", &namespace("two"));
    folder.stamp(folder.folder.path());
    assert_eq!(folder.scan(), ["+Namespace two"]);
    assert_eq!(folder.after(999), Vec::<String>::new());
    assert_eq!(folder.after(1), ["listed"]);
}

#[test]
fn a_file_that_keeps_changing_is_reported() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &namespaces(&["one", "two"]));
    folder.scan();
    for n in 0..30 {
        folder.write_partly("a.yaml", &format!("# {n}\n{}", namespace("one")));
        folder.close("a.yaml");
        assert!(folder.after(500).is_empty());
    }
    let problems = folder.problems();
    assert!(problems[0].starts_with("a.yaml: it changes without a pause"), "{problems:?}");
    assert!(problems[0].contains("1 objects that it no longer has stay"), "{problems:?}");
    assert_eq!(folder.after(1_000), ["-Namespace two"]);
    assert!(folder.problems().is_empty());
}

#[test]
fn the_objects_of_a_broken_file_stay_and_it_is_reported() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &namespace("one"));
    folder.write("b.yaml", &namespace("two"));
    folder.scan();
    folder.write("a.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: [\n");
    assert!(folder.scan().is_empty());
    let problems = folder.problems();
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].starts_with("a.yaml:")
            && problems[0].contains("its previous content stays in force"),
        "{problems:?}"
    );
    folder.write("a.yaml", &namespace("one"));
    assert!(folder.scan().is_empty());
    assert!(folder.problems().is_empty());
    // A truncated document is not reported while the file is being written.
    folder.write_partly("a.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {na");
    assert!(folder.scan().is_empty() && folder.problems().is_empty());
    assert!(folder.after(10_000).is_empty());
    assert_eq!(folder.problems().len(), 1, "it has not changed for a while");
}

#[test]
fn nothing_is_complete_while_a_file_was_never_valid() {
    let mut folder = Folder::new();
    folder.write("a.yaml", "a: [");
    folder.write("b.yaml", &namespace("two"));
    assert_eq!(folder.scan(), ["+Namespace two"]);
    assert!(!folder.source.is_listed());
    assert!(folder.problems()[0].contains("until then, nothing new is exported"));
    folder.write("a.yaml", &namespace("one"));
    assert_eq!(folder.scan(), ["+Namespace one", "listed"]);
}

#[test]
fn replicas_with_the_same_files_have_the_same_fingerprint() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &namespace("one"));
    folder.scan();
    let one = folder.source.fingerprint();
    let mut other = ManifestsSource::new(folder.folder.path(), ResourceVersion(9));
    other.scan(Moment { wall: folder.now().wall + QUIET, ..folder.now() }).unwrap();
    assert_eq!(other.fingerprint(), one);
    // It does not change if a file is written again with the same content, or with invalid content.
    folder.write("a.yaml", &namespace("one"));
    folder.scan();
    folder.write("a.yaml", "a: [");
    folder.scan();
    let is = |folder: &Folder| (folder.source.fingerprint(), folder.source.keeps_something());
    assert_eq!(is(&folder), (one.clone(), true));
    folder.write("a.yaml", &namespace("two"));
    folder.scan();
    assert!(folder.source.fingerprint() != one && !folder.source.keeps_something());
    folder.write("a.yaml", &namespace("one"));
    folder.scan();
    assert_eq!(is(&folder), (one.clone(), false));
    // It does not change while a file is being written.
    folder.write_partly("a.yaml", &namespaces(&["one", "two"]));
    folder.scan();
    assert_eq!(is(&folder), (one.clone(), true));
    folder.after(1_000);
    folder.write("a.yaml", &namespace("one"));
    folder.scan();
    folder.write("b.yaml", "");
    folder.scan();
    assert_ne!(folder.source.fingerprint(), one, "one more file");
}

#[test]
fn an_empty_or_unreadable_folder_changes_nothing() {
    let mut folder = Folder::new();
    assert!(matches!(folder.fails(), ScanError::Empty { .. }));
    folder.write("a.yaml", &namespace("one"));
    assert_eq!(folder.scan(), ["+Namespace one", "listed"]);
    folder.remove("a.yaml");
    folder.ms += 3_600_000;
    let error = folder.fails().to_string();
    assert!(error.contains("To remove the last object, leave an empty file"), "{error}");
    fs::remove_dir(folder.folder.path()).unwrap();
    assert!(matches!(folder.fails(), ScanError::Unreadable { .. }));
    fs::create_dir(folder.folder.path()).unwrap();
    folder.write("b.yaml", "");
    assert!(folder.scan().is_empty(), "missing files need a second look");
    assert_eq!(folder.after(1_000), ["-Namespace one"]);
}

#[test]
fn the_object_in_force_stays_when_a_copy_is_added() {
    let mut folder = Folder::new();
    let web = |address: &str| SERVICE.replace("10.101.0.10", address);
    folder.write("web.yaml", &web("10.101.0.10"));
    folder.scan();
    // Its name precedes that of the other file.
    folder.write("web-before-change.yaml", &web("10.101.0.99"));
    assert!(folder.scan().is_empty());
    let problems = folder.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with("web-before-change.yaml:1: Service shop/web is in"),
        "{problems:?}"
    );
    assert!(problems[0].ends_with("web.yaml already; that one stays"), "{problems:?}");
    // Changes of the object in force are used.
    folder.write("web.yaml", &web("10.101.0.11"));
    assert_eq!(folder.scan(), ["+Service shop/web"]);
    // The copy is used after the object in force is removed.
    folder.remove("web.yaml");
    assert!(folder.after(20).is_empty());
    assert_eq!(folder.after(1_000), ["+Service shop/web"]);
    assert!(folder.problems().is_empty());
    // After a start, the first file by name is used; within a file, the first copy.
    folder.write("web.yaml", &format!("{}---\n{}", web("10.101.0.12"), web("10.101.0.13")));
    folder.ms += 10_000;
    let mut other = ManifestsSource::new(folder.folder.path(), ResourceVersion::default());
    other.scan(folder.now()).unwrap();
    let files: Vec<_> = other.problems().iter().map(|p| (p.file.clone(), p.line)).collect();
    assert_eq!(files, [(folder.path("web.yaml"), Some(1)), (folder.path("web.yaml"), Some(6))]);
}

#[test]
fn a_mistake_affects_its_object_whose_previous_version_stays() {
    let mut folder = Folder::new();
    let list = |second: &str| {
        format!(
            "kind: List\nitems:\n- {{apiVersion: v1, kind: Namespace, metadata: {{name: one}}}}\n- {{apiVersion: v1, kind: Namespace, metadata: {{name: two{second}}}}}\n"
        )
    };
    folder.write("a.yaml", &list(""));
    assert_eq!(folder.scan(), ["+Namespace one", "+Namespace two", "listed"]);
    folder.write("a.yaml", &format!("{}---\n{}", list(", labels: {a: 1}"), namespace("three")));
    assert_eq!(folder.scan(), ["+Namespace three"]);
    assert_eq!(
        folder.problems(),
        [
            "a.yaml:1: item 1: Namespace two: metadata.labels.a: 1 is not a text, in quotes; it stays as it was"
        ]
    );
    assert!(folder.source.keeps_something());
    assert!(folder.after(10_000).is_empty());
    // After a restart, the invalid object has no previous version. The others are in force, and the source is complete. An
    // invalid Namespace counts as excluded.
    folder.source = ManifestsSource::new(folder.folder.path(), ResourceVersion::default());
    assert_eq!(
        folder.after(1_000),
        ["+Namespace one", "+Namespace three", "+Namespace two", "listed"]
    );
    let Object::Namespace(two) = folder.source.reported.values().last().unwrap() else {
        panic!("no namespace")
    };
    assert_eq!(
        two.annotations.get("clustermesh.cilium.io/global").map(String::as_str),
        Some("false")
    );
    assert_eq!(
        folder.problems(),
        [
            "a.yaml:1: item 1: Namespace two: metadata.labels.a: 1 is not a text, in quotes; until then nothing in it is exported"
        ]
    );
    folder.write("a.yaml", &list(""));
    assert_eq!(folder.scan(), ["+Namespace two", "-Namespace three"]);
    // It is removed when the file no longer has it.
    folder.write("a.yaml", &list(", labels: {a: 1}"));
    folder.scan();
    folder.write("a.yaml", &namespace("one"));
    assert_eq!(folder.scan(), ["-Namespace two"]);
    assert!(folder.problems().is_empty() && !folder.source.keeps_something());
}

#[test]
fn a_broken_document_affects_no_other_of_its_file() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &namespaces(&["one", "two"]));
    folder.scan();
    folder.write("a.yaml", &format!("{}---\nkind: [\n", namespace("three")));
    assert_eq!(folder.scan(), ["+Namespace three"]);
    assert!(
        folder.problems()[0].ends_with("its previous content stays in force"),
        "{:?}",
        folder.problems()
    );
    assert!(folder.after(10_000).is_empty(), "the broken document may contain one and two");
    folder.write("a.yaml", &namespace("three"));
    assert_eq!(folder.scan(), ["-Namespace one", "-Namespace two"]);
}

#[test]
fn an_address_belongs_to_one_service_which_is_named() {
    let mut folder = Folder::new();
    let service = |name: &str, ip: &str| SERVICE.replace("web", name).replace("10.101.0.10", ip);
    folder.write("a.yaml", &service("web", "10.101.0.10"));
    folder.scan();
    folder.write("b.yaml", &format!("# first by name\n{}", service("aaa", "10.101.0.10")));
    assert!(folder.scan().is_empty());
    assert_eq!(
        folder.problems(),
        ["b.yaml:1: Service shop/aaa: clusterIP: 10.101.0.10:80/TCP is shop/web's"]
    );
    // Two services exchange their addresses.
    folder.write("b.yaml", &service("aaa", "10.101.0.11"));
    assert_eq!(folder.scan(), ["+Service shop/aaa"]);
    folder.write("a.yaml", &service("web", "10.101.0.11"));
    assert!(folder.scan().is_empty(), "it keeps its address, because aaa has the new one");
    assert_eq!(
        folder.problems(),
        ["a.yaml:1: Service shop/web: clusterIP: 10.101.0.11:80/TCP is shop/aaa's"]
    );
    folder.write("b.yaml", &service("aaa", "10.101.0.10"));
    assert_eq!(folder.scan(), ["+Service shop/aaa", "+Service shop/web"]);
    assert!(folder.problems().is_empty());
    // When the owner is removed, the other service gets the address.
    folder.write("b.yaml", &service("aaa", "10.101.0.11"));
    folder.scan();
    folder.remove("a.yaml");
    folder.scan();
    assert_eq!(folder.after(1_000), ["+Service shop/aaa", "-Service shop/web"]);
}

#[test]
fn ignored_kinds_are_reported_once_with_their_number() {
    let mut folder = Folder::new();
    folder.write(
        "a.yaml",
        &format!("{}---\nkind: Deployment\n---\nkind: ServiceExport\n", namespace("one")),
    );
    folder
        .write("b.yaml", "kind: Deployment\n---\nkind: ServiceExport\n---\nkind: ServiceExport\n");
    folder.scan();
    assert_eq!(
        folder.problems(),
        [
            "a.yaml:7: kind ServiceExport is not read: a Service is exported by its annotation service.cilium.io/global: \"true\" (3 of them)"
        ]
    );
    let notes: Vec<_> =
        folder.source.notes().iter().map(|note| (note.line, note.reason.as_str())).collect();
    assert_eq!(notes, [(Some(5), "kind Deployment is not read (2 of them)")]);
}

#[test]
fn endpoints_are_used_without_a_selector_and_slices() {
    let bare = SERVICE.replace("selector: {app: web}, ", "");
    let endpoints = "apiVersion: v1\nkind: Endpoints\nmetadata: {name: web, namespace: shop, labels: {a: b}}\nsubsets: [{addresses: [{ip: 192.0.2.1, nodeName: n1}, {ip: '2001:db8::1'}], notReadyAddresses: [{ip: 192.0.2.2}], ports: [{name: http, port: 8080}]}]\n";
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, namespace: shop, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\n";
    for (service, endpoints, beside, mirrored) in [
        (bare.as_str(), endpoints.to_owned(), "", true),
        (SERVICE, endpoints.to_owned(), "", false),
        (bare.as_str(), endpoints.to_owned(), slice, false),
        ("", endpoints.to_owned(), "", false),
        (
            bare.as_str(),
            endpoints.replace("a: b", "endpointslice.kubernetes.io/skip-mirror: 'true'"),
            "",
            false,
        ),
        (
            bare.as_str(),
            endpoints.replace(
                "labels: {a: b}",
                "annotations: {control-plane.alpha.kubernetes.io/leader: x}",
            ),
            "",
            false,
        ),
    ] {
        let mut folder = Folder::new();
        folder.write("a.yaml", &[service, &endpoints, beside].join("\n---\n"));
        folder.scan();
        assert_eq!(folder.problems(), Vec::<String>::new());
        let made: Vec<_> = folder
            .source
            .reported
            .values()
            .filter_map(|object| match object {
                Object::EndpointSlice(slice) if slice.name != "s" => Some(slice.clone()),
                _ => None,
            })
            .collect();
        if !mirrored {
            assert_eq!(made, [], "{service} {endpoints}");
            continue;
        }
        let short: Vec<_> = made
            .iter()
            .map(|slice| {
                let endpoints: Vec<_> = slice
                    .endpoints
                    .iter()
                    .map(|e| (e.addresses[0].as_str(), e.ready, e.node.as_deref()))
                    .collect();
                (slice.address_type.as_str(), slice.ports[0].number, endpoints)
            })
            .collect();
        assert_eq!(
            short,
            [
                (
                    "IPv4",
                    Some(8080),
                    vec![("192.0.2.1", Some(true), Some("n1")), ("192.0.2.2", Some(false), None)]
                ),
                ("IPv6", Some(8080), vec![("2001:db8::1", Some(true), None)]),
            ]
        );
        let labels = &made[0].labels;
        assert_eq!(labels.get("kubernetes.io/service-name").map(String::as_str), Some("web"));
        assert_eq!(
            labels.get("endpointslice.kubernetes.io/managed-by").map(String::as_str),
            Some("endpointslicemirroring-controller.k8s.io")
        );
        assert_eq!(labels.get("a").map(String::as_str), Some("b"));
    }
}

#[test]
fn slices_are_made_of_pods_unless_there_are_some() {
    let mut folder = Folder::new();
    folder.write("service.yaml", SERVICE);
    folder.write("pod.yaml", &pod("True"));
    let first = folder.scan();
    let made =
        first.iter().find(|event| event.starts_with("+EndpointSlice shop/web-")).unwrap().clone();
    folder.write("pod.yaml", &pod("False"));
    assert_eq!(folder.scan(), ["+Pod shop/p".to_owned(), made.clone()]);

    folder.write("slice.yaml", "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, namespace: shop, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nendpoints: [{addresses: [10.1.1.9]}]\n");
    assert_eq!(folder.scan(), ["+EndpointSlice shop/s".to_owned(), made.replace('+', "-")]);
    folder.remove("slice.yaml");
    folder.scan();
    assert_eq!(folder.after(1_000), [made, "-EndpointSlice shop/s".to_owned()]);
}

#[test]
fn a_drain_is_part_of_the_source() {
    let mut folder = Folder::new();
    let beside = tempfile::tempdir().unwrap();
    let drain = beside.path().join("drain.yaml");
    folder.source =
        ManifestsSource::new(folder.folder.path(), ResourceVersion::default()).with_drain(&drain);
    folder.write("a.yaml", &namespace("one"));
    let set = |folder: &mut Folder, text: &str| {
        let mut file = File::create(&drain).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.set_modified(folder.now().wall).unwrap();
        folder.source.note_written([(drain.clone(), Written::Closed)]);
    };
    set(&mut folder, "cluster: x");
    assert_eq!(folder.scan(), ["+Namespace one"], "the previous content is not known");
    assert!(folder.problems()[0].contains("drain.yaml: "));
    assert!(folder.source.drain().is_none() && !folder.source.is_listed());
    fs::remove_file(&drain).unwrap();
    folder.stamp(beside.path());
    assert!(folder.scan().is_empty());
    assert_eq!(folder.after(1_000), ["listed"]);

    let nothing = folder.source.fingerprint();
    let is_drained = |folder: &Folder| folder.source.drain().unwrap().nodes.contains("n1");
    set(&mut folder, "nodes: [n1]");
    folder.scan();
    assert!(is_drained(&folder));
    assert_ne!(folder.source.fingerprint(), nothing, "the fingerprint includes the drain");
    set(&mut folder, "nodes: [");
    folder.scan();
    assert!(is_drained(&folder) && folder.source.keeps_something());
    assert!(folder.problems()[0].ends_with("the previous content stays in force"));
    // An empty file may be about to be written.
    set(&mut folder, "");
    folder.scan();
    assert!(is_drained(&folder));
    folder.after(1_000);
    assert_eq!((folder.source.fingerprint(), folder.problems().len()), (nothing, 0));
}
