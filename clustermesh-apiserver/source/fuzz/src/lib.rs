//! Fuzz bodies for a cluster directory: single manifests, a folder of manifests, `cluster.yaml` and `drain.yaml`.

#![allow(clippy::expect_used, reason = "a fuzz body fails by panicking")]

use std::{collections::BTreeMap, fs};

use mesh_files::{Moment, QUIET};
use mesh_model::object::{Object, ObjectKey};
use mesh_source::{
    Decoded, Drain, Format, ManifestsSource, ResourceVersion, SourceEvent,
    cluster_directory::ClusterDirectory, decode, decode_in_pieces,
};

/// Decodes a manifest as YAML and as JSON.
///
/// Objects must be decoded equally if another document follows, and in a List. Problems must have a valid line.
pub fn manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for format in [Format::Yaml, Format::Json] {
        let decoded = decode(format, text);
        places(text, &decoded);
        // No other text is split.
        if format == Format::Yaml && text.contains("items:") {
            assert_eq!(decode_in_pieces(format, text, 1), decoded);
        }
        let Ok(decoded) = decoded.whole() else { continue };
        // A List in a List is refused.
        let is_list = text.contains("List");
        match format {
            Format::Json if is_list => {}
            Format::Json => listed(format, &format!("{LIST_JSON}{text}]}}"), &decoded),
            Format::Yaml => {
                let more = decode(format, &format!("{text}\n---\n{NAMESPACE}"));
                assert_eq!(more.rejected, decoded.rejected);
                assert_eq!(
                    more.objects.split_last().map(|(_, rest)| rest),
                    Some(decoded.objects.as_slice())
                );
                // Other line breaks would end the item, and a document marker would end the list.
                if !is_list
                    && !text.contains(['\r', '\u{85}', '\u{2028}', '\u{2029}'])
                    && !text.contains("---")
                {
                    let item = text.replace('\n', "\n  ");
                    listed(format, &format!("{LIST_YAML}- {item}\n"), &decoded);
                }
            }
        }
    }
}

/// Scans a folder of two manifests, `a.yaml` and `b.json`, which are separated by a line `=` in the input.
///
/// The events must be consistent, and must delete all objects after the files are emptied.
pub fn folder(data: &[u8]) {
    let folder = new_folder();
    let files = ["a.yaml", "b.json"].map(|name| folder.path().join(name));
    let at = data.windows(3).position(|part| part == b"\n=\n");
    let (first, second) = data.split_at(at.map_or(data.len(), |at| at + 1));
    for (path, text) in files.iter().zip([first, second.get(2..).unwrap_or_default()]) {
        must(fs::write(path, text));
    }
    let since = ResourceVersion(7);
    let mut source = ManifestsSource::new(folder.path(), since);
    // So much later that the files count as completely written.
    let begin = Moment::now();
    let after = |looks| {
        let time = looks * QUIET;
        Moment { now: begin.now + time, wall: begin.wall + time }
    };
    let events = must(source.scan(after(2)));
    assert_eq!(must(source.scan(after(3))), []);
    for problem in source.problems() {
        assert!(files.contains(&problem.file), "{problem}");
        assert!(problem.to_string().starts_with(&problem.file.display().to_string()));
        assert!(!problem.reason.is_empty(), "{problem}");
    }
    let mut follower = Follower { reported: BTreeMap::new(), at: since };
    follower.follow(events);
    for file in &files {
        must(fs::remove_file(file));
        must(fs::write(file, ""));
    }
    follower.follow(must(source.scan(after(4))));
    follower.follow(must(source.scan(after(5))));
    assert_eq!(follower.reported, BTreeMap::new());
    assert!(source.is_listed());
}

/// Parses a `cluster.yaml`. Valid settings must be the same after they are written and parsed again.
pub fn settings(data: &[u8]) {
    let folder = new_folder();
    let directory = ClusterDirectory::new(folder.path());
    let path = directory.settings_file();
    must(fs::write(&path, data));
    match directory.settings() {
        Ok(settings) => {
            must(fs::remove_file(&path));
            must(fs::write(&path, must(settings.to_yaml())));
            assert_eq!(must(directory.settings()), settings);
        }
        Err(error) => {
            let (says, place) = (error.to_string(), format!("{}: ", path.display()));
            assert!(says.starts_with(&place) && says.len() > place.len(), "{says}");
        }
    }
}

/// Parses a `drain.yaml`. A valid one must be the same after it is written and parsed again.
pub fn drain(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Drain::parse(text) {
        Ok(drain) => assert_eq!(must(Drain::parse(&must(drain.to_yaml()))), drain),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

const LIST_JSON: &str = r#"{"kind":"List","items":["#;
const LIST_YAML: &str = "kind: List\nitems:\n";
const NAMESPACE: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: last}}";

/// The objects that the events have reported.
struct Follower {
    reported: BTreeMap<ObjectKey, Object>,
    at: ResourceVersion,
}

impl Follower {
    fn follow(&mut self, events: Vec<SourceEvent>) {
        for event in events {
            match event {
                SourceEvent::Listing { .. }
                | SourceEvent::Unreadable { .. }
                | SourceEvent::Bookmark { .. } => {}
                SourceEvent::Applied { resource_version, object } => {
                    self.advance(resource_version);
                    let before = self.reported.insert(object.key(), object.clone());
                    assert_ne!(before, Some(object), "reported twice");
                }
                SourceEvent::Deleted { resource_version, key } => {
                    self.advance(resource_version);
                    assert!(self.reported.remove(&key).is_some(), "{key} was never reported");
                }
                SourceEvent::Listed { resource_version, .. } => {
                    assert_eq!(resource_version, self.at);
                }
            }
        }
    }

    fn advance(&mut self, to: ResourceVersion) {
        assert!(to > self.at, "{to:?} after {:?}", self.at);
        self.at = to;
    }
}

/// Everything that was found must have a line of the text, and a name or a reason.
fn places(text: &str, decoded: &Decoded) {
    let lines = 1..=text.matches(['\n', '\r']).count() + 1;
    for (line, object) in &decoded.objects {
        assert!(lines.contains(line), "{}: line {line}", object.key());
        assert!(!object.key().name.is_empty(), "{object:?}");
    }
    for places in decoded.passed_over.values() {
        assert!(lines.contains(&places.line) && places.count > 0, "{places:?}");
    }
    for problem in decoded.rejected.iter().chain(&decoded.broken) {
        assert!(lines.contains(&problem.line) && !problem.reason.is_empty(), "{problem}");
    }
}

/// A List with the document as its item must be decoded equally.
fn listed(format: Format, list: &str, alone: &Decoded) {
    let Ok(list) = decode(format, list).whole() else { return };
    let [listed, alone] = [&list, alone].map(|all| all.objects.iter().map(|(_, object)| object));
    assert!(listed.eq(alone), "{list:?}");
}

/// A temporary folder, in memory if possible: on a disk, 100,000 folders are slow if other processes write to it.
fn new_folder() -> tempfile::TempDir {
    must(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()))
}

fn must<T, E: std::fmt::Debug>(outcome: Result<T, E>) -> T {
    outcome.expect("cannot fail")
}

#[cfg(test)]
mod tests {
    use mesh_wire_fuzz::run;

    use super::*;

    /// The manifests in `seeds/` of a format.
    fn seeds(extension: &str) -> Vec<String> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/seeds");
        let paths = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        let mut paths: Vec<_> =
            paths.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
        paths.sort();
        paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
    }

    fn bytes(texts: Vec<String>) -> Vec<Vec<u8>> {
        texts.into_iter().map(String::into_bytes).collect()
    }

    #[test]
    fn manifests_survive() {
        let all = [seeds("yaml"), seeds("json")].concat();
        assert_eq!(all.len(), 12);
        run(bytes(all), manifest);
    }

    #[test]
    fn deeply_nested_and_expanding_manifests_are_refused() {
        let deep = [
            (Format::Json, "["),
            (Format::Json, "{\"a\":"),
            (Format::Yaml, "["),
            (Format::Yaml, "{a: "),
            (Format::Yaml, "- "),
        ];
        for (format, open) in deep {
            let open = open.repeat(100_000);
            for text in [open.clone(), format!("{LIST_JSON}{open}")] {
                assert!(decode(format, &text).whole().is_err(), "{}", &text[..40]);
            }
        }
        // 9^8 values in a few lines.
        let mut text = "a0: &a0 x\n".to_owned();
        for (within, at) in (0..8).zip(1..) {
            let nine = vec![format!("*a{within}"); 9].join(", ");
            text.push_str(&format!("a{at}: &a{at} [{nine}]\n"));
        }
        text.push_str("kind: List\nitems: *a8\n");
        let error = decode(Format::Yaml, &text).whole().unwrap_err();
        assert!(error.reason.contains("its aliases expand to too many values"), "{error}");
    }

    #[test]
    fn folders_survive() {
        let json = seeds("json");
        let all = seeds("yaml").into_iter().zip(json.iter().cycle());
        let mut all: Vec<_> = all.map(|(yaml, json)| format!("{yaml}=\n{json}")).collect();
        all.push(format!("{}=\n{}", seeds("yaml")[6], json[1]));
        run(bytes(all), folder);
    }

    #[test]
    fn drains_survive() {
        let all = ["cluster: true\nnodes: [n1, 'n2.example.org']\n", "nodes:\n- n1\n", ""];
        run(all.map(|text| text.as_bytes().to_vec()).into(), drain);
    }

    #[test]
    fn settings_survive() {
        let full = "name: a\nid: 1\nmaxConnectedClusters: 511\npodCIDRs: [10.1.0.0/16, 'fd00:10:1::/48']\nserviceCIDRs:\n- 10.101.0.0/16\nnodeCIDRs: [172.31.1.0/24]\nendpoints: ['172.31.1.1:2379', '[fd00:172::101]:2379']\ndefaultGlobalNamespace: false\n";
        run(bytes(vec![full.into(), "name: b\nid: 2\n".into()]), settings);
    }
}
