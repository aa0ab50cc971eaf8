//! Flags of what agents list and show.

use clap::{Args as ClapArgs, Subcommand};

use super::offline::WhatIf;

#[derive(Debug, ClapArgs)]
pub(crate) struct ServiceArgs {
    #[command(subcommand)]
    pub(crate) command: ServiceCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// List the services of the mesh, as each cluster's clients see them
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        from: From,
        #[command(flatten)]
        namespace: Namespaces,
    },
    /// Show one service with its backends
    Show {
        /// NAMESPACE/NAME, or NAME
        service: String,
        #[command(flatten)]
        namespace: Namespace,
        #[command(flatten)]
        from: From,
    },
    /// Compute from files which backends each frontend of a cluster uses, could use and leaves out
    Backends {
        /// Only this one: NAMESPACE/NAME[:PORT], or NAME[:PORT]
        service: Option<String>,
        #[command(flatten)]
        namespace: Namespace,
        #[command(flatten)]
        what_if: WhatIf,
    },
    /// Explain load balancing: tiers, weights, and the reason for each backend
    ///
    /// A node's agent is asked; with --state it is computed from files.
    Explain {
        /// Only this one: NAMESPACE/NAME[:PORT], or NAME[:PORT]
        service: Option<String>,
        #[command(flatten)]
        namespace: Namespace,
        #[command(flatten)]
        what_if: WhatIf,
        #[command(flatten)]
        agent: From,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PodArgs {
    #[command(subcommand)]
    pub(crate) command: PodCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PodCommand {
    /// List the pods with their addresses and identities; exits with 3 while a pod waits for its identity
    #[command(visible_alias = "ls")]
    List {
        /// Only of this cluster
        #[arg(long, value_name = "CONTEXT")]
        context: Option<String>,
        /// Only of this node
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        #[command(flatten)]
        namespace: Namespaces,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    pub(crate) command: NodeCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List the nodes with their addresses and pod ranges
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        from: From,
        /// Only of this cluster
        #[arg(long, value_name = "CLUSTER")]
        cluster: Option<String>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct IdentityArgs {
    #[command(subcommand)]
    pub(crate) command: IdentityCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum IdentityCommand {
    /// List the identities with their labels
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        from: From,
        /// Only of this cluster
        #[arg(long, value_name = "CLUSTER")]
        cluster: Option<String>,
    },
    /// Show an identity by its ID, or those that have some labels
    Show {
        /// ID, or labels, as in app=web or k8s:app=web;k8s:io.kubernetes.pod.namespace=shop
        identity: String,
        #[command(flatten)]
        from: From,
        /// Only of this cluster
        #[arg(long, value_name = "CLUSTER")]
        cluster: Option<String>,
    },
}

/// Whose view.
#[derive(Debug, ClapArgs)]
pub(crate) struct From {
    /// Only in this cluster
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) context: Option<String>,
    /// The node whose kernel is shown; the first whose agent answers, unless given
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
}

/// Where a name is one.
#[derive(Debug, ClapArgs)]
pub(crate) struct Namespace {
    /// The namespace of a NAME without one
    #[arg(long, short, default_value = "default")]
    namespace: String,
}

/// Of which namespaces something is listed.
#[derive(Debug, ClapArgs)]
pub(crate) struct Namespaces {
    /// Only this namespace
    #[arg(long, short)]
    namespace: Option<String>,
    /// All namespaces, which is what is listed without --namespace
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    all_namespaces: bool,
}

impl Namespace {
    pub(crate) fn name(&self) -> &str {
        &self.namespace
    }

    /// `NAMESPACE/NAME` of a name with or without one.
    pub(crate) fn complete(&self, service: String) -> String {
        match service.contains('/') {
            true => service,
            false => format!("{}/{service}", self.namespace),
        }
    }
}

impl Namespaces {
    pub(crate) fn only(&self) -> Option<&str> {
        self.namespace.as_deref().filter(|_| !self.all_namespaces)
    }
}
