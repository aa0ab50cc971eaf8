//! Fuzz bodies for a cluster directory: its manifests, each by itself and as a folder, and its `cluster.yaml`.

#![allow(clippy::expect_used, reason = "a fuzz body fails by panicking")]

use std::{collections::BTreeMap, fs};

use mesh_files::{Moment, QUIET};
use mesh_model::object::{Object, ObjectKey};
use mesh_source::{
    Decoded, Drain, Format, ManifestsSource, ResourceVersion, SourceEvent,
    cluster_directory::ClusterDirectory, decode, decode_in_pieces,
};

/// A manifest, read as YAML and as JSON.
///
/// What is understood is understood the same beside another document and in a list; what is wrong has its line. A List that is
/// split at each item has the content of the whole.
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
        // A list in a list is refused.
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
                // Other line breaks would end the item, and a marker the list.
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

/// A folder of two manifests, `a.yaml` and `b.json`, separated by a line `=`.
///
/// Who follows the events has what the folder holds, and nothing once the files are empty.
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
    // Whole, and as old as what is meant to be so.
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

/// A `cluster.yaml`. What is understood can be written and is understood the same again.
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

/// A `drain.yaml`. What is understood can be written and is understood the same again.
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

/// Has what the events reported so far.
struct Follower {
    reported: BTreeMap<ObjectKey, Object>,
    at: ResourceVersion,
}

impl Follower {
    fn follow(&mut self, events: Vec<SourceEvent>) {
        for event in events {
            match event {
                SourceEvent::Listing { .. } | SourceEvent::Bookmark { .. } => {}
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

/// Whatever was found has a line that the text has, and a name or a reason.
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

/// A list of one document: it is understood the same.
fn listed(format: Format, list: &str, alone: &Decoded) {
    let Ok(list) = decode(format, list).whole() else { return };
    let [listed, alone] = [&list, alone].map(|all| all.objects.iter().map(|(_, object)| object));
    assert!(listed.eq(alone), "{list:?}");
}

/// A folder in memory where there is one: on a disk, 10^5 folders wait for other processes that write to it.
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
    fn manifests_that_grow_are_refused() {
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
        // Nine of nine of nine: 9^8 values in a few lines.
        let mut text = "a0: &a0 x\n".to_owned();
        for (within, at) in (0..8).zip(1..) {
            let nine = vec![format!("*a{within}"); 9].join(", ");
            text.push_str(&format!("a{at}: &a{at} [{nine}]\n"));
        }
        text.push_str("kind: List\nitems: *a8\n");
        let error = decode(Format::Yaml, &text).whole().unwrap_err();
        assert!(error.reason.contains("its aliases stand for too many values"), "{error}");
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
