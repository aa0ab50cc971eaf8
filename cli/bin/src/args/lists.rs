//! The flags of commands that list and show what agents know.

use clap::{Args as ClapArgs, Subcommand};

use super::{
    namespaces::{Namespace, Namespaces},
    offline::WhatIf,
};
use crate::labels::Selector;

#[derive(Debug, ClapArgs)]
pub(crate) struct ServiceArgs {
    #[command(subcommand)]
    pub(crate) command: ServiceCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// List the services of the mesh, as the clients of each cluster see them; with -o wide also weights and tiers
    #[command(visible_aliases = ["ls", "get"])]
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
    /// Compute from files which backends each frontend of a cluster uses, which it uses if these fail, and which it does not
    /// use
    Backends {
        /// Show only this service: NAMESPACE/NAME[:PORT], or NAME[:PORT]
        service: Option<String>,
        #[command(flatten)]
        namespace: Namespace,
        #[command(flatten)]
        what_if: WhatIf,
        /// The node that the clients are on, for services that prefer backends near their clients
        #[arg(long, value_name = "NODE", requires = "state")]
        node: Option<String>,
    },
    /// Explain load balancing: tiers, weights, and the reason for each backend
    ///
    /// By default it asks an agent. With --state it computes the same from files; --node is then the node of the clients.
    Explain {
        /// Show only this service: NAMESPACE/NAME[:PORT], or NAME[:PORT]
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
    /// List the pods with their addresses and identities; exits with 3 while a pod waits for its identity, or its process
    /// died
    #[command(visible_aliases = ["ls", "get"])]
    List {
        /// Ask only this cluster
        #[arg(long, value_name = "CONTEXT")]
        context: Option<String>,
        /// Ask only the agent of this node
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        #[command(flatten)]
        namespace: Namespaces,
        /// Show only pods whose identities have these labels, as in app=web,tier!=front
        #[arg(long, short = 'l', value_name = "LABELS")]
        selector: Option<Selector>,
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
    #[command(visible_aliases = ["ls", "get"])]
    List {
        #[command(flatten)]
        from: From,
        /// Show only nodes of this cluster
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
    #[command(visible_aliases = ["ls", "get"])]
    List {
        #[command(flatten)]
        from: From,
        /// Show only identities of this cluster
        #[arg(long, value_name = "CLUSTER")]
        cluster: Option<String>,
        #[command(flatten)]
        namespace: Namespaces,
        /// Show only identities with these labels, as in app=web,tier!=front
        #[arg(long, short = 'l', value_name = "LABELS")]
        selector: Option<Selector>,
    },
    /// Show an identity by its ID, that of an address, or the identities with certain labels
    ///
    /// For an address: which cluster has it, why it is unknown if it is, and which other clusters claim it. For an ID: also
    /// the addresses with this identity that more than one cluster claims.
    Show {
        /// An ID, an address, or labels, as in app=web or k8s:app=web;k8s:io.kubernetes.pod.namespace=shop
        identity: String,
        #[command(flatten)]
        from: From,
        /// Show only identities of this cluster
        #[arg(long, value_name = "CLUSTER")]
        cluster: Option<String>,
    },
}

/// The agent that is asked.
#[derive(Debug, ClapArgs)]
pub(crate) struct From {
    /// Ask only this cluster
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) context: Option<String>,
    /// Ask the agent of this node; by default the first that answers
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
}
