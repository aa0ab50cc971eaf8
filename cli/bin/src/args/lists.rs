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
    /// List the services of the mesh, as each cluster's clients see them; with -o wide also weights and tiers
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
    /// Compute from files which backends each frontend of a cluster uses, which are its fallback, and which it leaves out
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
    /// By default it asks an agent. With --state it computes the same from files.
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
        /// Ask only this cluster
        #[arg(long, value_name = "CONTEXT")]
        context: Option<String>,
        /// Ask only the agent of this node
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
        /// Only what is of this cluster
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
        /// Only what is of this cluster
        #[arg(long, value_name = "CLUSTER")]
        cluster: Option<String>,
        #[command(flatten)]
        namespace: Namespaces,
    },
    /// Show an identity by its ID, or those that have some labels
    Show {
        /// ID, or labels, as in app=web or k8s:app=web;k8s:io.kubernetes.pod.namespace=shop
        identity: String,
        #[command(flatten)]
        from: From,
        /// Only what is of this cluster
        #[arg(long, value_name = "CLUSTER")]
        cluster: Option<String>,
    },
}

/// Whose view.
#[derive(Debug, ClapArgs)]
pub(crate) struct From {
    /// Ask only this cluster
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) context: Option<String>,
    /// Ask the agent of this node; by default the first that answers
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
}

/// Where a name is one.
#[derive(Debug, ClapArgs)]
pub(crate) struct Namespace {
    /// The namespace of a NAME without one, `default` unless given; without a NAME: only this namespace
    #[arg(long, short)]
    namespace: Option<String>,
    /// All namespaces: every service of that NAME
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    all_namespaces: bool,
}

/// Which services are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Services {
    /// `NAMESPACE/NAME[:PORT]`.
    One(String),
    /// All of this name, in whichever namespace, with a port or without: `NAME[:PORT]`.
    Named(String),
    /// All of a namespace.
    Of(String),
    All,
}

/// Of which namespaces something is listed.
#[derive(Debug, ClapArgs)]
pub(crate) struct Namespaces {
    /// Only this namespace
    #[arg(long, short)]
    namespace: Option<String>,
    /// All namespaces, as without --namespace
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    all_namespaces: bool,
}

impl Namespace {
    /// What is meant by a name with or without a namespace, or by none.
    pub(crate) fn services(&self, name: Option<&str>) -> Services {
        let Self { namespace, all_namespaces } = self;
        match (name, namespace) {
            // A slash after a colon is that of a port's protocol.
            (Some(name), _) if name.split(':').next().is_some_and(|name| name.contains('/')) => {
                Services::One(name.to_owned())
            }
            (Some(name), _) if *all_namespaces => Services::Named(name.to_owned()),
            (Some(name), namespace) => {
                Services::One(format!("{}/{name}", namespace.as_deref().unwrap_or("default")))
            }
            (None, Some(namespace)) => Services::Of(namespace.clone()),
            (None, None) => Services::All,
        }
    }
}

impl Namespaces {
    pub(crate) fn only(&self) -> Option<&str> {
        self.namespace.as_deref().filter(|_| !self.all_namespaces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_of_the_namespace_that_is_given() {
        let of = |namespace: Option<&str>, all_namespaces: bool, name: Option<&str>| {
            Namespace { namespace: namespace.map(str::to_owned), all_namespaces }.services(name)
        };
        assert_eq!(of(None, false, Some("web")), Services::One("default/web".into()));
        assert_eq!(of(Some("shop"), false, Some("web:80")), Services::One("shop/web:80".into()));
        assert_eq!(
            of(Some("shop"), false, Some("web:80/TCP")),
            Services::One("shop/web:80/TCP".into())
        );
        assert_eq!(of(Some("x"), false, Some("shop/web")), Services::One("shop/web".into()));
        assert_eq!(of(None, true, Some("web")), Services::Named("web".into()));
        assert_eq!(of(Some("shop"), false, None), Services::Of("shop".into()));
        assert_eq!(of(None, true, None), Services::All);
        assert_eq!(of(None, false, None), Services::All);
    }
}
