//! Asks agents through their sockets. If an agent does not answer, the command still shows the other agents' answers, prints
//! a warning and exits with 3.

use std::{
    fmt,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use futures_util::{StreamExt as _, stream};
use mesh_admin::{
    SocketError, Status,
    v1::{ListPeersRequest, Peer, StatusRequest, StatusResponse},
};
use mesh_lab::contexts::{AgentSocket, Context};

use crate::contexts::agents_of;

/// The answers of agents.
#[derive(Debug)]
pub(crate) struct Answers<T> {
    pub(crate) answers: Vec<Answer<T>>,
    /// Why other agents did not answer, one line for each.
    pub(crate) warnings: Vec<String>,
}

/// The answer of one agent.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    /// The context's name.
    pub(crate) context: String,
    pub(crate) node: String,
    pub(crate) answer: T,
}

/// Why an agent did not answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// Nothing listens on its socket.
    NotRunning(PathBuf),
    /// Only another user may connect to its socket.
    Forbidden(PathBuf),
    /// It answers with an error, or does not answer in time.
    Failed(String),
}

/// The agents of a cluster that are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which<'a> {
    /// The agent of this node; without a node, the first agent that answers.
    One(Option<&'a str>),
    /// The agent of this node; without a node, all agents.
    Every(Option<&'a str>),
}

impl<T> Answers<Vec<T>> {
    /// Each element of the answers, with the name of its context; and the warnings.
    pub(crate) fn split(self) -> (impl Iterator<Item = (String, T)>, Vec<String>) {
        let each = |Answer { context, answer, .. }: Answer<Vec<T>>| {
            answer.into_iter().map(move |one| (context.clone(), one))
        };
        (self.answers.into_iter().flat_map(each), self.warnings)
    }
}

/// The questions that wait for answers at a time.
const AT_ONCE: usize = 16;

/// Sends `question` to agents of each cluster, to several at a time.
///
/// # Errors
/// A cluster does not have the named node.
pub(crate) fn ask<T>(
    contexts: &[Context],
    which: Which<'_>,
    question: impl AsyncFn(&Path) -> Result<T, Unanswered>,
) -> anyhow::Result<Answers<T>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (Which::One(node) | Which::Every(node)) = which;
    let mut asked = Vec::new();
    for context in contexts {
        asked.push((context, agents_of(context, node)?));
    }
    let question = async |context: &Context, agent: &AgentSocket| {
        let (context, node) = (context.name.clone(), agent.node.clone());
        match question(&agent.socket).await {
            Ok(answer) => Ok(Answer { context, node, answer }),
            Err(why) => Err(format!("the agent of {context}/{node} {why}")),
        }
    };
    let each = match which {
        Which::One(_) => runtime.block_on(all(asked, async |(context, agents)| {
            first(agents, async |agent| question(context, agent).await).await
        })),
        Which::Every(_) => {
            let agents = asked.into_iter().flat_map(|(context, agents)| {
                agents.into_iter().map(move |agent| (context, agent))
            });
            let agents: Vec<_> = agents.collect();
            let one = async |(context, agent)| vec![question(context, agent).await];
            runtime.block_on(all(agents, one))
        }
    };
    let (mut answers, mut warnings) = (Vec::new(), Vec::new());
    for answer in each.into_iter().flatten() {
        match answer {
            Ok(answer) => answers.push(answer),
            Err(why) => warnings.push(why),
        }
    }
    Ok(Answers { answers, warnings })
}

/// What `each` makes of the items, in their order; [`AT_ONCE`] at a time.
pub(crate) async fn all<I, T>(items: Vec<I>, each: impl AsyncFn(I) -> T) -> Vec<T> {
    let each = &each;
    let asked = stream::iter(items).map(async |item| each(item).await);
    asked.buffered(AT_ONCE).collect().await
}

/// The first answer, and before it the failures, which name the agent that answered.
async fn first<T>(
    agents: Vec<&AgentSocket>,
    question: impl AsyncFn(&AgentSocket) -> Result<Answer<T>, String>,
) -> Vec<Result<Answer<T>, String>> {
    let mut failures = Vec::new();
    for agent in agents {
        match question(agent).await {
            Ok(answer) => {
                let instead =
                    |why| Err(format!("as {}/{} has it: {why}", answer.context, answer.node));
                let failures = failures.into_iter().map(instead);
                return failures.collect::<Vec<_>>().into_iter().chain([Ok(answer)]).collect();
            }
            Err(why) => failures.push(why),
        }
    }
    failures.into_iter().map(Err).collect()
}

/// The status of a daemon.
pub(crate) async fn status(socket: &Path) -> Result<StatusResponse, Unanswered> {
    let mut client = mesh_admin::connect(socket).await.map_err(unreachable)?;
    Ok(client.status(StatusRequest::default()).await.map_err(Unanswered::failed)?.into_inner())
}

/// The clusters that an agent follows.
pub(crate) async fn peers(socket: &Path) -> Result<Vec<Peer>, Unanswered> {
    let mut client = mesh_admin::connect(socket).await.map_err(unreachable)?;
    let peers = client.list_peers(ListPeersRequest {}).await.map_err(Unanswered::failed)?;
    Ok(peers.into_inner().peers)
}

// === impl Unanswered ===

impl Unanswered {
    /// The agent answered with an error.
    pub(crate) fn failed(status: Status) -> Self {
        Self::Failed(status.message().to_owned())
    }
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning(socket) => write!(f, "does not run (socket {})", socket.display()),
            Self::Forbidden(socket) => {
                write!(f, "may be asked by root only (socket {})", socket.display())
            }
            Self::Failed(reason) => write!(f, "does not answer: {reason}"),
        }
    }
}

/// The reason for which an agent cannot be reached.
pub(crate) fn unreachable(error: SocketError) -> Unanswered {
    let SocketError::Io { path, source } = &error else {
        return Unanswered::Failed(error.to_string());
    };
    match source.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => Unanswered::NotRunning(path.clone()),
        ErrorKind::PermissionDenied => Unanswered::Forbidden(path.clone()),
        _ => Unanswered::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Asks two clusters of two nodes, where only the agents at the sockets in `running` answer.
    fn asked(which: Which<'_>, running: &[&str]) -> Answers<()> {
        let agent = |cluster: &str, node: &str| AgentSocket {
            node: node.into(),
            socket: format!("/{cluster}/{node}").into(),
        };
        let context = |name: &str| Context {
            name: name.into(),
            directory: "/".into(),
            apiserver: "/".into(),
            replicas: Vec::new(),
            agents: vec![agent(name, "n1"), agent(name, "n2")],
            netns: None,
        };
        let answers = async |socket: &Path| match running.contains(&socket.to_str().unwrap()) {
            true => Ok(()),
            false => Err(Unanswered::NotRunning(socket.into())),
        };
        ask(&["b", "c"].map(context), which, answers).unwrap()
    }

    #[test]
    fn one_dead_agent_empties_no_list() {
        let of = |answers: &Answers<()>| -> Vec<String> {
            answers.answers.iter().map(|a| format!("{}/{}", a.context, a.node)).collect()
        };
        let (n1, n2) =
            ("the agent of c/n1 does not run (socket /c/n1)", "does not run (socket /c/n2)");
        let found = asked(Which::One(None), &["/b/n2"]);
        assert_eq!(of(&found), ["b/n2"]);
        assert_eq!(
            found.warnings,
            [
                "as b/n2 has it: the agent of b/n1 does not run (socket /b/n1)",
                n1,
                &format!("the agent of c/n2 {n2}")
            ]
        );
        let found = asked(Which::One(None), &["/b/n1", "/b/n2", "/c/n1"]);
        assert_eq!((of(&found), found.warnings), (vec!["b/n1".into(), "c/n1".into()], vec![]));
        // A named agent is asked alone, without an alternative.
        let found = asked(Which::One(Some("n1")), &["/b/n1", "/c/n2"]);
        assert_eq!((of(&found), found.warnings), (vec!["b/n1".into()], vec![n1.to_owned()]));
        let found = asked(Which::Every(None), &["/b/n1", "/b/n2", "/c/n2"]);
        assert_eq!(of(&found), ["b/n1", "b/n2", "c/n2"]);
        assert_eq!(found.warnings, [n1]);
    }

    #[test]
    fn fifty_agents_are_asked_side_by_side_but_not_all_at_once() {
        let agents = (0..50).map(|n| AgentSocket { node: format!("n{n}"), socket: "/".into() });
        let context = Context {
            name: "k".into(),
            directory: "/".into(),
            apiserver: "/".into(),
            replicas: Vec::new(),
            agents: agents.collect(),
            netns: None,
        };
        let (asked, most) = (Cell::new(0), Cell::new(0));
        let answers = ask(&[context], Which::Every(None), async |_: &Path| {
            asked.set(asked.get() + 1);
            most.set(most.get().max(asked.get()));
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
            asked.set(asked.get() - 1);
            Ok(())
        });
        let nodes: Vec<String> = answers.unwrap().answers.into_iter().map(|a| a.node).collect();
        let wanted: Vec<String> = (0..50).map(|n| format!("n{n}")).collect();
        assert_eq!((nodes, most.get()), (wanted, AT_ONCE));
    }
}
