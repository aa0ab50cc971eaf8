//! Fuzz bodies for the lines of a batch, and for the compiler of policies.

#![allow(clippy::expect_used, clippy::panic, reason = "a fuzz body fails by panicking")]

mod steps;

use std::sync::LazyLock;

use mesh_labels::LabelFilter;
use mesh_policy::Options;
use mesh_verdict::answer_line;

pub use steps::compiler;

/// Made once: its expressions take longer than a line.
static FILTER: LazyLock<LabelFilter> =
    LazyLock::new(|| LabelFilter::new([]).expect("there is no rule to be wrong"));

/// Answers a line of a batch.
///
/// Whatever it is, it is answered, with what is refused of it or with as many answers as there are flows; twice the same.
pub fn batch(data: &[u8]) {
    let line = String::from_utf8_lossy(data);
    let answer = answer_line(&line, Options::default(), &FILTER);
    assert_eq!(answer_line(&line, Options::default(), &FILTER), answer);
    let is_refused = !answer.refused.is_empty();
    for problem in &answer.refused {
        assert!(!problem.reason.is_empty(), "{problem}");
    }
    match &answer.flows {
        Some(flows) => assert_eq!(flows.is_none(), is_refused),
        None => assert!(answer.matrix.is_some()),
    }
    let asked = serde_json::from_str::<serde_json::Value>(&line).ok();
    let asked = asked.and_then(|line| Some(line.get("flows")?.as_array()?.len()));
    if let (Some(Some(flows)), Some(asked)) = (&answer.flows, asked) {
        assert_eq!(flows.len(), asked);
    }
    let text = serde_json::to_string(&answer).expect("an answer is JSON");
    assert!(!text.contains('\n'), "an answer is one line");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeds(of: &str) -> Vec<Vec<u8>> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(of);
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        let mut files: Vec<_> = files.collect();
        files.sort();
        files.into_iter().map(|file| std::fs::read(file).unwrap()).collect()
    }

    #[test]
    fn seeds_are_answered() {
        for seed in seeds("batch") {
            let line = String::from_utf8(seed).unwrap();
            let answer = answer_line(&line, Options::default(), &FILTER);
            assert_eq!(answer.refused, []);
        }
    }

    #[test]
    fn lines_of_a_batch() {
        mesh_wire_fuzz::run(seeds("batch"), batch);
    }

    #[test]
    fn changes_of_policies_and_pods() {
        mesh_wire_fuzz::run(seeds("compiler"), compiler);
    }
}
