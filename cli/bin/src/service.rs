//! What clients connect to, and where they end up.

use anyhow::{Context as _, bail};
use mesh_admin::v1::{Backend, Frontend, ListServicesRequest, Service};
use serde_json::{Value, json};

use crate::{
    args::{From, ServiceArgs, ServiceCommand},
    contexts,
    outcome::Outcome,
    output::{self, Output},
};

/// A service, as a node of a cluster balances it.
struct Seen {
    from: String,
    service: Service,
}

pub(crate) fn run(args: &ServiceArgs, output: Output) -> anyhow::Result<Outcome> {
    match &args.command {
        ServiceCommand::List { from, namespace } => {
            let seen = ask(from, namespace.as_deref().unwrap_or_default(), "")?;
            match output {
                Output::Text => list(&seen)?,
                Output::Json => {
                    let services: Vec<Value> = seen.iter().map(Seen::json).collect();
                    output::json("ServiceList", json!({ "services": services }))?;
                }
            }
            Ok(Outcome::Done)
        }
        ServiceCommand::Show { service, from } => {
            let (namespace, name) = service.split_once('/').unwrap_or(("default", service));
            let seen = ask(from, namespace, name)?;
            if seen.is_empty() {
                bail!(
                    "there is no service {namespace}/{name}: it must exist in the cluster that is asked, and be global, to be in the mesh"
                );
            }
            match output {
                Output::Text => {
                    for (index, seen) in seen.iter().enumerate() {
                        if index > 0 {
                            output::line("")?;
                        }
                        show(seen)?;
                    }
                }
                Output::Json => {
                    let services: Vec<Value> = seen.iter().map(Seen::json).collect();
                    output::json("Service", json!({ "services": services }))?;
                }
            }
            let mut frontends = seen.iter().flat_map(|seen| &seen.service.frontends);
            let used = frontends.all(|frontend| !frontend.backends.is_empty());
            Ok(if used { Outcome::Done } else { Outcome::NotReady })
        }
        // Computed elsewhere.
        ServiceCommand::Backends { .. } | ServiceCommand::Explain { .. } => Ok(Outcome::Done),
    }
}

/// Asks one node of each cluster.
fn ask(from: &From, namespace: &str, name: &str) -> anyhow::Result<Vec<Seen>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut seen = Vec::new();
    for context in contexts::find_or_all(from.context.as_deref())? {
        let agent = match &from.node {
            None => context.agents.first(),
            Some(node) => context.agents.iter().find(|agent| agent.node == *node),
        };
        let agent = agent.with_context(|| {
            let nodes: Vec<&str> = context.agents.iter().map(|a| a.node.as_str()).collect();
            format!("{} has no such node; it has: {}", context.name, nodes.join(", "))
        })?;
        let request = ListServicesRequest { namespace: namespace.into(), name: name.into() };
        let services = runtime.block_on(async {
            let mut client = mesh_admin::connect(&agent.socket).await?;
            anyhow::Ok(client.list_services(request).await?.into_inner().services)
        })?;
        seen.extend(
            services.into_iter().map(|service| Seen { from: context.name.clone(), service }),
        );
    }
    Ok(seen)
}

fn list(seen: &[Seen]) -> anyhow::Result<()> {
    let rows = seen.iter().flat_map(|Seen { from, service }| {
        service.frontends.iter().map(|frontend| {
            vec![
                from.clone(),
                service.namespace.clone(),
                service.name.clone(),
                endpoint(&frontend.address, frontend.port),
                frontend.protocol.clone(),
                frontend.port_name.clone(),
                clusters(frontend),
            ]
        })
    });
    let header = ["IN", "NAMESPACE", "NAME", "FRONTEND", "PROTOCOL", "PORT", "BACKENDS"];
    output::table(&header, rows)?;
    Ok(())
}

fn show(Seen { from, service }: &Seen) -> anyhow::Result<()> {
    output::line(format!("{}/{} in {from}", service.namespace, service.name))?;
    for frontend in &service.frontends {
        let name = if frontend.port_name.is_empty() {
            String::new()
        } else {
            format!(" ({})", frontend.port_name)
        };
        let address = endpoint(&frontend.address, frontend.port);
        output::line(format!("\n{address}/{}{name}: {}", frontend.protocol, clusters(frontend)))?;
        let row = |backend: &Backend| {
            vec![
                endpoint(&backend.address, backend.port),
                backend.cluster.clone(),
                backend.node.clone(),
            ]
        };
        output::table(&["BACKEND", "CLUSTER", "NODE"], frontend.backends.iter().map(row))?;
    }
    Ok(())
}

/// `2 of a, 3 of b`.
fn clusters(frontend: &Frontend) -> String {
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    frontend
        .backends
        .iter()
        .for_each(|backend| *counts.entry(backend.cluster.as_str()).or_default() += 1);
    if counts.is_empty() {
        return "none".into();
    }
    counts
        .iter()
        .map(|(cluster, count)| format!("{count} of {cluster}"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn endpoint(address: &str, port: u32) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

impl Seen {
    fn json(&self) -> Value {
        let backend = |b: &Backend| json!({ "address": b.address, "port": b.port, "cluster": b.cluster, "node": b.node });
        let frontend = |f: &Frontend| {
            json!({
                "address": f.address, "port": f.port, "protocol": f.protocol, "portName": f.port_name,
                "backends": f.backends.iter().map(backend).collect::<Vec<_>>(),
            })
        };
        json!({
            "in": self.from, "namespace": self.service.namespace, "name": self.service.name,
            "frontends": self.service.frontends.iter().map(frontend).collect::<Vec<_>>(),
        })
    }
}
