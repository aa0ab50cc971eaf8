//! From a context's name to a cluster.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use mesh_lab::contexts::{AgentSocket, Context, Contexts, of_labs};

/// The variable that names a contexts file.
const VARIABLE: &str = "CLUSTERMESH_CONTEXTS";
/// Where a host's own daemons listen.
const APISERVER: &str = "/run/clustermesh/apiserver.sock";
const AGENT: &str = "/run/clustermesh/agent.sock";

/// The largest answer of a daemon that is read, in bytes: there may be 100,000 identities.
pub(crate) const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// All contexts there are: those of `$CLUSTERMESH_CONTEXTS`, or of the labs on this machine.
pub(crate) fn all() -> anyhow::Result<Vec<Context>> {
    let files = match env::var_os(VARIABLE) {
        Some(file) => vec![PathBuf::from(file)],
        None => of_labs(),
    };
    let mut contexts = Vec::new();
    for file in files {
        let read =
            Contexts::read(&file).with_context(|| format!("contexts file {}", file.display()))?;
        contexts.extend(read.contexts);
    }
    Ok(contexts)
}

/// One context: a cluster directory if it has a slash in it, a name otherwise. A name that is there twice is an error.
pub(crate) fn find(name: &str) -> anyhow::Result<Context> {
    if name.contains('/') {
        return Ok(of_directory(Path::new(name)));
    }
    let contexts = all()?;
    let found: Vec<&Context> = contexts.iter().filter(|context| context.name == name).collect();
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => {
            let known: Vec<&str> = contexts.iter().map(|context| context.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            bail!(
                "there is no context {name:?} (known: {known}). Name a cluster directory (with a slash), set {VARIABLE}, or make a lab with `clustermesh lab up`"
            )
        }
        several => {
            let places: Vec<String> =
                several.iter().map(|c| c.directory.display().to_string()).collect();
            bail!(
                "the context {name:?} is there {} times: {}. Set {VARIABLE} to one contexts file",
                several.len(),
                places.join(", ")
            )
        }
    }
}

/// The named context, or all there are, or this host's own.
pub(crate) fn find_or_all(name: Option<&str>) -> anyhow::Result<Vec<Context>> {
    match name {
        Some(name) => Ok(vec![find(name)?]),
        None => {
            let contexts = all()?;
            let own = || vec![of_directory(Path::new("/etc/clustermesh"))];
            Ok(if contexts.is_empty() { own() } else { contexts })
        }
    }
}

/// The agent of a node of a cluster; of its first, unless one is named.
pub(crate) fn agent_of<'a>(
    context: &'a Context,
    node: Option<&str>,
) -> anyhow::Result<&'a AgentSocket> {
    let agent = match node {
        None => context.agents.first(),
        Some(node) => context.agents.iter().find(|agent| agent.node == node),
    };
    agent.with_context(|| {
        let nodes: Vec<&str> = context.agents.iter().map(|a| a.node.as_str()).collect();
        format!("{} has no such node; it has: {}", context.name, nodes.join(", "))
    })
}

fn of_directory(directory: &Path) -> Context {
    let name = directory.file_name().map(|name| name.to_string_lossy().into_owned());
    Context {
        name: name.unwrap_or_default(),
        directory: directory.into(),
        apiserver: APISERVER.into(),
        replicas: Vec::new(),
        agents: vec![AgentSocket { node: "this node".into(), socket: AGENT.into() }],
        netns: None,
    }
}
