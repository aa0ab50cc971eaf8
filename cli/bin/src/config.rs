//! `clustermesh config`: the contexts.

use mesh_lab::contexts::Context;
use serde_json::{Value, json};

use crate::{
    args::ConfigCommand,
    contexts::{self, Origin},
    outcome::Outcome,
    output::{self, Listed, Output},
};

pub(crate) fn run(
    command: &ConfigCommand,
    context: Option<&str>,
    output: Output,
) -> anyhow::Result<Outcome> {
    if let ConfigCommand::GetContexts = command {
        let all = contexts::find_or_all(context)?;
        output::list(output, "ContextList", None, &all, json!({}))?;
        return Ok(Outcome::Done);
    }
    let (origin, names) = match context {
        Some(name) => {
            let found = contexts::find(name)?;
            (contexts::origin_of(&found)?, vec![found.name])
        }
        None => match contexts::origin()? {
            // Its cluster is not asked.
            Origin::Kubeconfig(name) => (Origin::Kubeconfig(name.clone()), vec![name]),
            origin => {
                let all = contexts::find_or_all(None)?;
                (origin, all.into_iter().map(|context| context.name).collect())
            }
        },
    };
    match output {
        Output::Text => {
            output::line(format!("{}: {}", in_words(&origin)?, names.join(", ")))?;
        }
        Output::Json => {
            let lab = match &origin {
                Origin::Lab(lab) => Some(lab),
                Origin::File(_) | Origin::Kubeconfig(_) | Origin::ThisHost => None,
            };
            let kubeconfig = match &origin {
                Origin::Kubeconfig(context) => Some(context),
                _ => None,
            };
            let fields = json!({
                "contexts": names, "file": origin.file()?, "lab": lab, "kubeconfigContext": kubeconfig,
            });
            output::json("CurrentContext", fields)?;
        }
    }
    Ok(Outcome::Done)
}

fn in_words(origin: &Origin) -> anyhow::Result<String> {
    Ok(match (origin, origin.file()?) {
        (Origin::Lab(lab), Some(file)) => format!("lab {lab} ({})", file.display()),
        (_, Some(file)) => format!("contexts file {}", file.display()),
        (Origin::Kubeconfig(_), None) => "kubeconfig".into(),
        (_, None) => "this host".into(),
    })
}

impl Listed for Context {
    const HEADER: &'static [&'static str] = &["NAME", "NODES", "DIRECTORY"];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let nodes: Vec<&str> = self.agents.iter().map(|agent| agent.node.as_str()).collect();
        let directory = self.directory.display().to_string();
        vec![vec![self.name.clone(), nodes.join(", "), directory]]
    }

    fn json(&self) -> Value {
        let agents = self.agents.iter().map(|a| json!({ "node": a.node, "socket": a.socket }));
        json!({
            "name": self.name, "directory": self.directory, "apiserver": self.apiserver,
            "replicas": self.replicas, "agents": agents.collect::<Vec<_>>(), "netns": self.netns,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples;

    #[test]
    fn contexts_fit() {
        let context = Context {
            name: "a".into(),
            directory: "/run/clustermesh-lab/demo/clusters/a".into(),
            apiserver: "/".into(),
            replicas: Vec::new(),
            agents: vec![mesh_lab::contexts::AgentSocket { node: "n1".into(), socket: "/".into() }],
            netns: None,
        };
        samples::list_fits(80, &[context]);
    }
}
