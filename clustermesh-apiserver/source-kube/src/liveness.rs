//! Whether the API server answers: a small request of its own, for a watch that is open says nothing.

use std::time::{Duration, Instant};

use crate::{
    connection::Connection,
    failure::Failure,
    response::{Metadata, Page, version},
};

/// How the API server answered last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Liveness {
    /// The last answer; `None`: there was none yet.
    pub answered: Option<Answer>,
    /// Why the last request got none, since when.
    pub trouble: Option<(Instant, String)>,
}

/// What the answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The UID of the namespace kube-system, by which a cluster is known.
    pub cluster: String,
    /// The version of all that the API server has.
    pub version: u64,
}

/// How often it is asked, and how long an answer may take.
pub(crate) const INTERVAL: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(3);
/// A list of one: it has the version of everything, a GET would have the object's alone.
const PATH: &str = "/api/v1/namespaces?fieldSelector=metadata.name%3Dkube-system&limit=1";

// === impl Liveness ===

impl Liveness {
    /// Takes an answer, or why there is none. Returns whether versions went back.
    pub fn note(&mut self, answer: Result<Answer, String>, now: Instant) -> bool {
        match answer {
            Err(why) => {
                let since = self.trouble.take().map_or(now, |(since, _)| since);
                self.trouble = Some((since, why));
                false
            }
            Ok(answer) => {
                self.trouble = None;
                let before = self.answered.replace(answer.clone());
                before.is_some_and(|before| answer.version < before.version)
            }
        }
    }
}

/// Asks, and waits for the answer. The error is a sentence.
pub(crate) async fn ask(connection: &Connection) -> Result<Answer, String> {
    let answer = connection.get(PATH, PATIENCE).await.map_err(|failure| sentence(&failure))?;
    read(&answer)
}

/// The UID of the namespace kube-system, by which a cluster is known.
///
/// # Errors
/// When the API server does not answer, or refuses: a sentence.
pub async fn cluster_uid(connection: &Connection) -> Result<String, String> {
    ask(connection).await.map(|answer| answer.cluster)
}

fn read(text: &str) -> Result<Answer, String> {
    let page: Page<'_> =
        serde_json::from_str(text).map_err(|error| format!("the API server: {error}"))?;
    let found = &page.metadata.resource_version;
    let version = version(found)
        .ok_or_else(|| format!("the API server: its resourceVersion {found:?} is no number"))?;
    let cluster = page.items().next().and_then(Metadata::of).map(|metadata| metadata.uid);
    let cluster = cluster.filter(|uid| !uid.is_empty());
    let cluster = cluster
        .ok_or("the API server has no namespace kube-system, by which a cluster is known")?;
    Ok(Answer { cluster, version })
}

fn sentence(failure: &Failure) -> String {
    match (failure, failure.status()) {
        (Failure::Broken(reason), _) => format!("the API server does not answer: {reason}"),
        (Failure::Refused { code, .. }, status) => {
            let message = status.unwrap_or_default().message;
            format!("the API server answers with HTTP {code} {message}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_the_cluster_and_the_version() {
        let text = r#"{"metadata":{"resourceVersion":"412"},"items":[{"metadata":{"name":"kube-system","uid":"u-1"}}]}"#;
        assert_eq!(read(text), Ok(Answer { cluster: "u-1".into(), version: 412 }));
        for (text, wanted) in [
            (r#"{"metadata":{"resourceVersion":"412"},"items":[]}"#, "no namespace kube-system"),
            (r#"{"metadata":{"resourceVersion":"x"},"items":[]}"#, "no number"),
            ("<html>", "the API server: "),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn trouble_keeps_its_beginning_and_a_restore_is_noticed() {
        let (began, later) = (Instant::now(), Instant::now() + INTERVAL);
        let answer = |version| Ok(Answer { cluster: "u".into(), version });
        let mut liveness = Liveness::default();
        assert!(!liveness.note(answer(10), began));
        assert!(!liveness.note(Err("no".into()), began));
        assert!(!liveness.note(Err("still no".into()), later));
        assert_eq!(liveness.trouble, Some((began, "still no".into())));
        assert!(!liveness.note(answer(10), later));
        assert_eq!(liveness.trouble, None);
        assert!(liveness.note(answer(9), later));
    }
}
