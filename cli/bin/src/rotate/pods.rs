//! `certs rotate` for a mesh in Kubernetes: each apiserver's pod has a cluster directory of its own, in which this program
//! replaces the certificates.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::{
    args::RotateArgs,
    kube_exec::{Cluster, Component},
};

/// How long one pod may take.
const LIMIT: Duration = Duration::from_secs(60);
/// The cluster directory in a pod.
const DIRECTORY: &str = "/etc/clustermesh/";

/// The output in a pod.
#[derive(Deserialize)]
struct Printed {
    changes: Vec<String>,
}

/// Replaces certificates in the pods of all replicas. Returns the changes, each with its pod.
pub(super) fn rotate(cluster: &Cluster, args: &RotateArgs) -> anyhow::Result<Vec<String>> {
    let context = cluster.context();
    if args.ca {
        bail!(
            "{context} is a context of a kubeconfig, and --ca needs a cluster directory: the CA of a cluster in Kubernetes is in the Secret clustermesh-ca; other certificates are renewed by the apiserver, or now by --server and --clients"
        );
    }
    let command = command(args);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let mut changes = Vec::new();
    let pods = cluster.pods(Component::Apiserver)?;
    if pods.is_empty() {
        bail!("{context}: the namespace {} has no pod of the apiserver", cluster.namespace());
    }
    for pod in pods {
        let output = cluster.exec(&pod, &command, &[], LIMIT)?;
        let printed: Printed = serde_json::from_slice(&output)
            .with_context(|| format!("{context}: {}: the output", pod.name))?;
        let of_pod = |change| format!("{}: {change}", pod.name);
        changes.extend(printed.changes.into_iter().map(of_pod));
    }
    Ok(changes)
}

/// The command in a pod.
fn command(args: &RotateArgs) -> Vec<String> {
    let mut command: Vec<String> =
        ["clustermesh", "certs", "rotate", "--context", DIRECTORY, "-o", "json"]
            .map(str::to_owned)
            .into();
    for (flag, is_set) in
        [("--server", args.server), ("--clients", args.clients), ("--dry-run", args.dry_run)]
    {
        command.extend(is_set.then(|| flag.to_owned()));
    }
    let seconds = |duration: Duration| format!("{}s", duration.as_secs());
    command.extend(["--min-age".to_owned(), seconds(args.min_age)]);
    if let Some(lifetime) = args.lifetime {
        command.extend(["--lifetime".to_owned(), seconds(lifetime)]);
    }
    command
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, CertsCommand, Command};

    fn parsed(words: &[String]) -> RotateArgs {
        match Args::try_parse_from(words).unwrap().command {
            Command::Certs(CertsCommand::Rotate(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    /// The command in the pod is one of ours, and has the same flags.
    #[test]
    fn flags_are_passed_on() {
        let line = "clustermesh certs rotate --context k --server --clients --dry-run --lifetime 1h --min-age 2m";
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let there = parsed(&command(&parsed(&words)));
        assert_eq!(
            (there.server, there.clients, there.dry_run, there.ca),
            (true, true, true, false)
        );
        assert_eq!(there.lifetime, Some(Duration::from_secs(3_600)));
        assert_eq!((there.min_age, there.context.as_str()), (Duration::from_secs(120), DIRECTORY));
    }
}
