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

pub(crate) fn run(args: &ServiceArgs, output: Output) -> anyhow::Result<Outcome> {
    match &args.command {
        ServiceCommand::List { from, namespace } => {
            let services = ask(from, namespace.as_deref().unwrap_or_default(), "")?;
            match output {
                Output::Text => list(&services)?,
                Output::Json => {
                    let services: Vec<Value> = services.iter().map(service_json).collect();
                    output::json("ServiceList", json!({ "services": services }))?;
                }
            }
            Ok(Outcome::Done)
        }
        ServiceCommand::Show { service, from } => {
            let (namespace, name) =
                service.split_once('/').context("a service is NAMESPACE/NAME")?;
            let services = ask(from, namespace, name)?;
            let Some(found) = services.first() else {
                bail!(
                    "there is no service {service}: it must exist in this cluster, and be global, to be in the mesh"
                );
            };
            match output {
                Output::Text => show(found)?,
                Output::Json => output::json("Service", service_json(found))?,
            }
            let used = found.frontends.iter().all(|frontend| !frontend.backends.is_empty());
            Ok(if used { Outcome::Done } else { Outcome::NotReady })
        }
    }
}

fn ask(from: &From, namespace: &str, name: &str) -> anyhow::Result<Vec<Service>> {
    let context = contexts::find_or_only(from.context.as_deref())?;
    let agent = match &from.node {
        None => context.agents.first(),
        Some(node) => context.agents.iter().find(|agent| agent.node == *node),
    };
    let known = || context.agents.iter().map(|a| a.node.clone()).collect::<Vec<_>>().join(", ");
    let agent =
        agent.with_context(|| format!("{} has no such node; it has: {}", context.name, known()))?;
    let request = ListServicesRequest { namespace: namespace.into(), name: name.into() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = mesh_admin::connect(&agent.socket).await?;
        Ok(client.list_services(request).await?.into_inner().services)
    })
}

fn list(services: &[Service]) -> anyhow::Result<()> {
    let rows = services.iter().flat_map(|service| {
        service.frontends.iter().map(|frontend| {
            vec![
                service.namespace.clone(),
                service.name.clone(),
                endpoint(&frontend.address, frontend.port),
                frontend.protocol.clone(),
                frontend.port_name.clone(),
                clusters(frontend),
            ]
        })
    });
    output::table(&["NAMESPACE", "NAME", "FRONTEND", "PROTOCOL", "PORT", "BACKENDS"], rows)?;
    Ok(())
}

fn show(service: &Service) -> anyhow::Result<()> {
    output::line(format!("{}/{}", service.namespace, service.name))?;
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

fn service_json(service: &Service) -> Value {
    let backend = |b: &Backend| json!({ "address": b.address, "port": b.port, "cluster": b.cluster, "node": b.node });
    let frontend = |f: &Frontend| {
        json!({
            "address": f.address, "port": f.port, "protocol": f.protocol, "portName": f.port_name,
            "backends": f.backends.iter().map(backend).collect::<Vec<_>>(),
        })
    };
    json!({
        "namespace": service.namespace, "name": service.name,
        "frontends": service.frontends.iter().map(frontend).collect::<Vec<_>>(),
    })
}
