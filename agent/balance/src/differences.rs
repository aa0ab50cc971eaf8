//! Compares what the kernel has of a frontend with what was chosen for it.

use std::collections::BTreeSet;

use mesh_model::lb::{Backend, Content, Settings};

/// The deviations of a frontend in the kernel, each a sentence. `name` is how a backend is named in them.
pub fn differences(
    should: Option<&Content>,
    has: Option<&Content>,
    name: impl Fn(&Backend) -> String,
) -> Vec<String> {
    let (should, has) = match (should, has) {
        (None, None) => return Vec::new(),
        (Some(_), None) => return vec!["the kernel does not have the frontend".into()],
        (None, Some(_)) => return vec!["the kernel has the frontend and should not".into()],
        (Some(should), Some(has)) => (should, has),
    };
    let mut found = Vec::new();
    if should.settings != has.settings {
        let [has, should] = [has.settings, should.settings].map(shown);
        found.push(format!("settings are {has} in the kernel, not {should}"));
    }
    if should.weights != has.weights {
        found.push(format!(
            "weights are {:?} in the kernel, not {:?}",
            has.weights.0, should.weights.0
        ));
    }
    let all: BTreeSet<&Backend> = should.backends.keys().chain(has.backends.keys()).collect();
    for backend in all {
        match (should.backends.get(backend), has.backends.get(backend)) {
            (Some(should), Some(has)) if should != has => {
                let (has, should) = (has.number(), should.number());
                found.push(format!(
                    "{} is in group {has} in the kernel, not {should}",
                    name(backend)
                ));
            }
            (Some(_), None) => found.push(format!("the kernel does not have {}", name(backend))),
            (None, Some(_)) => {
                found.push(format!("the kernel has {} and should not", name(backend)))
            }
            _ => {}
        }
    }
    found
}

/// A frontend's settings in words.
fn shown(settings: Settings) -> String {
    let Settings { session_affinity, plain, pass_if_empty } = settings;
    let scope = if plain { "of one cluster" } else { "global" };
    let empty = if pass_if_empty { "pass" } else { "are refused" };
    format!(
        "(session affinity {session_affinity} s, {scope}, connections without a backend {empty})"
    )
}

#[cfg(test)]
mod tests {
    use mesh_model::{
        ClusterId, Protocol,
        lb::{Group, Weights},
    };

    use super::*;

    #[test]
    fn what_the_kernel_has_otherwise_is_reported() {
        let backend = |last: u8| Backend {
            address: [10, 1, 1, last].into(),
            port: 80,
            protocol: Protocol::Tcp,
            cluster: ClusterId::NONE,
        };
        let name = |backend: &Backend| backend.address.to_string();
        let second = Group::new(1).unwrap();
        let should = Content {
            backends: [(backend(1), Group::FIRST), (backend(2), second)].into(),
            ..Content::default()
        };
        assert!(differences(None, None, name).is_empty());
        assert!(differences(Some(&should), Some(&should.clone()), name).is_empty());
        let missing = differences(Some(&should), None, name);
        assert_eq!(missing, ["the kernel does not have the frontend"]);
        let strange = differences(None, Some(&should), name);
        assert_eq!(strange, ["the kernel has the frontend and should not"]);
        let has = Content {
            settings: Settings { plain: true, ..Settings::default() },
            weights: Weights([1, 2, 0, 0, 0, 0, 0, 0]),
            backends: [(backend(2), Group::FIRST), (backend(3), second)].into(),
        };
        let found = differences(Some(&should), Some(&has), name);
        assert_eq!(
            found[1..],
            [
                "weights are [1, 2, 0, 0, 0, 0, 0, 0] in the kernel, not [1, 0, 0, 0, 0, 0, 0, 0]",
                "the kernel does not have 10.1.1.1",
                "10.1.1.2 is in group 0 in the kernel, not 1",
                "the kernel has 10.1.1.3 and should not",
            ]
        );
        assert!(
            found[0].starts_with("settings are (session affinity ") && found.len() == 5,
            "{found:?}"
        );
    }
}
