//! Fuzz bodies for everything a peer writes, and the runner that gives them mutated input under stable Rust.
//!
//! `cargo test` runs each body on its corpus and on 10^5 inputs made from it; `make fuzz` hands the same bodies to
//! libFuzzer.

use mesh_model::{ClusterId, ClusterLimit, ClusterName};
use mesh_wire::{
    Key, Layout, Peer, cluster_config, decode, decode_removal, encode, peer_file::PeerFile,
    timestamp, users_file::UsersFile,
};
use proptest::{
    collection::vec,
    prelude::*,
    sample::select,
    test_runner::{Config, TestRng, TestRunner},
};

/// How many generated inputs a body must survive in the tests.
const GENERATED: u32 = 100_000;

/// A key and its value, separated by a newline: what a watch delivers.
///
/// What decodes must survive another round: a record that changes on the way through us would be invented state.
#[allow(clippy::expect_used, clippy::panic, reason = "a fuzz body fails by panicking")]
pub fn entry(data: &[u8]) {
    let (key, value) = match data.iter().position(|b| *b == b'\n') {
        Some(at) => (data.get(..at).unwrap_or_default(), data.get(at + 1..).unwrap_or_default()),
        None => (data, [].as_slice()),
    };
    let Ok(name) = ClusterName::new("alpha") else {
        return;
    };
    let limit = ClusterLimit::Max255;
    let Ok(id) = ClusterId::new(7, limit) else {
        return;
    };
    for layout in Layout::ALL {
        let peer = Peer { name: name.clone(), id, limit, layout };
        let removal = decode_removal(&peer, key);
        if let Ok(Some(record)) = decode(&peer, key, value) {
            assert_eq!(removal.ok().flatten(), Some(record.key()));
            let key = Key::of_record(layout, &peer.name, record.key()).to_string();
            let again = decode(&peer, key.as_bytes(), &encode(&record));
            assert_eq!(again.expect("what was encoded"), Some(record));
        }
    }
    if let Ok(config) = cluster_config::decode(value) {
        assert_eq!(cluster_config::decode(&cluster_config::encode(&config)).ok(), Some(config));
    }
    if let Ok(key) = Key::parse(key)
        && !matches!(key, Key::Other | Key::Canary(_, None))
    {
        assert_eq!(Key::parse(key.to_string().as_bytes()), Ok(key));
    }
    let _ = timestamp(value);
}

/// A peer file or a users file.
pub fn files(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(file) = PeerFile::parse(text) {
        let again = file.to_yaml().ok().and_then(|text| PeerFile::parse(&text).ok());
        assert_eq!(again, Some(file));
    }
    let _ = UsersFile::parse(text);
}

/// Runs a body on its corpus and on [`GENERATED`] inputs made from it, the same ones each time.
///
/// # Panics
/// With the shortest input found on which the body panics.
#[allow(clippy::panic, reason = "the caller is a test")]
pub fn run(corpus: Vec<Vec<u8>>, body: fn(&[u8])) {
    corpus.iter().for_each(|input| body(input));
    let config = Config { cases: GENERATED, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(config.rng_algorithm);
    let outcome = TestRunner::new_with_rng(config, rng).run(&mutated(corpus), |input| {
        body(&input);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

/// An edit of an input.
#[derive(Clone, Debug)]
enum Edit {
    Set(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Truncate(prop::sample::Index),
    Repeat(prop::sample::Index, usize),
}

fn mutated(corpus: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let interesting: Vec<Vec<u8>> = [
        "\0",
        "\"",
        "{",
        "}",
        "[",
        ",",
        ":",
        "/",
        "-1",
        "4294967296",
        "null",
        "<nil>",
        "..",
        "\n",
        "\u{2028}",
        "\\u0000",
        "::1",
        "10.0.0.1/33",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    let inserted = prop_oneof![vec(any::<u8>(), 1..8), select(interesting)];
    let at = any::<prop::sample::Index>;
    let edit = prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        4 => (at(), inserted).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        2 => (at(), 1usize..16).prop_map(|(at, n)| Edit::Remove(at, n)),
        1 => at().prop_map(Edit::Truncate),
        1 => (at(), 2usize..200).prop_map(|(at, n)| Edit::Repeat(at, n)),
    ];
    let base = prop_oneof![1 => vec(any::<u8>(), 0..64), 9 => select(corpus)];
    (base, vec(edit, 0..4)).prop_map(|(base, edits)| edits.into_iter().fold(base, apply))
}

fn apply(mut input: Vec<u8>, edit: Edit) -> Vec<u8> {
    let at = |index: prop::sample::Index| index.index(input.len() + 1);
    match edit {
        Edit::Set(index, byte) => {
            let at = at(index);
            if let Some(target) = input.get_mut(at) {
                *target = byte;
            }
        }
        Edit::Insert(index, bytes) => {
            let at = at(index);
            input.splice(at..at, bytes);
        }
        Edit::Remove(index, count) => {
            let from = at(index);
            let to = input.len().min(from + count);
            input.drain(from..to);
        }
        Edit::Truncate(index) => {
            let at = at(index);
            input.truncate(at);
        }
        Edit::Repeat(index, count) => {
            let at = at(index);
            let piece: Vec<u8> = input.iter().skip(at).take(4).copied().collect();
            input.splice(at..at, piece.repeat(count));
        }
    }
    input
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;

    /// The recorded keys and values, and some of the attacks that the tests of `mesh-wire` list.
    fn entries() -> Vec<Vec<u8>> {
        let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/cilium-1.20.2");
        let mut all = Vec::new();
        for file in std::fs::read_dir(recorded).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|e| e == "json") {
                // The bodies want bytes, not structure: each key with the value on the next line.
                let text = std::fs::read_to_string(path).unwrap();
                let lines: Vec<_> = text.lines().filter_map(quoted).collect();
                all.extend(
                    lines
                        .windows(2)
                        .filter(|w| w[0].starts_with(b"cilium/"))
                        .map(|w| w.join(&b'\n')),
                );
            }
        }
        assert!(all.len() > 50, "{}", all.len());
        all
    }

    fn quoted(line: &str) -> Option<Vec<u8>> {
        let (name, value) = line.trim().trim_end_matches(',').split_once(": ")?;
        let value = value.trim_matches('"');
        match name {
            "\"key\"" | "\"value\"" => {
                Some(value.replace("\\\"", "\"").replace("\\\\", "\\").into())
            }
            "\"value_b64\"" => STANDARD.decode(value).ok(),
            _ => None,
        }
    }

    #[test]
    fn entries_survive() {
        run(entries(), entry);
    }

    #[test]
    fn files_survive() {
        let peer = "endpoints:\n- https://beta.mesh.cilium.io:32379\ntrusted-ca-file: /a\nkey-file: /b\ncert-file: /c\ncilium-host-aliases:\n- hostname: beta.mesh.cilium.io\n  ips: [10.0.0.1, 'fd00::1']\nclustermesh:\n  uuid: 00000000-0000-0000-0000-000000000001\n  podCIDRs: [10.2.0.0/16]\n  nodeCIDRs: [172.31.2.0/24]\n  externalBackends: false\n  budget: {keys: 10}\n";
        let users = "users:\n- name: remote-beta\n  role: remote\n";
        run([peer, users].map(|text| text.as_bytes().to_vec()).into(), files);
    }
}
