//! `clustermesh`: the mesh from the command line. Each module is a noun; commands use the daemons' public interfaces only.

mod args;
mod ask;
mod bench;
mod certs;
mod check;
mod completions;
mod config;
mod connect;
mod connectivity;
mod contexts;
mod drain;
mod etcd;
mod explain;
mod export;
mod identity;
mod kube_context;
mod kube_exec;
mod lab;
mod lab_pod;
mod labels;
mod node;
mod outcome;
mod output;
mod pod;
mod policy;
mod quarantine;
mod rotate;
mod service;
mod status;
mod sysdump;
mod version;
mod wait;
mod watch;

use std::{env, process::ExitCode};

use crate::{
    args::{Command, ServiceArgs, ServiceCommand, refuse},
    drain::Change,
    kube_context::{Kubernetes, NAMESPACE},
    outcome::Outcome,
    output::{Format, Output},
};

fn main() -> ExitCode {
    mesh_certs::install_crypto();
    let args = args::parse().unwrap_or_else(|error| {
        Output::new(output::asked_for(env::args()));
        outcome::usage(&error)
    });
    let output = Output::new(args.output);
    if args.no_color {
        output::without_colours();
    }
    if args.output == Some(Format::Name) && !args.command.is_list() {
        refuse("-o name: this command does not write a list")
    }
    if args.contexts.is_some() && args.lab.is_some() {
        refuse("--contexts and --lab both select the contexts: give one of them")
    }
    if args.context.is_some() && !args.command.takes_context() {
        refuse("--context: this command asks no cluster's daemons")
    }
    if args.watch && !args.command.is_list() && !matches!(args.command, Command::Status(_)) {
        refuse("--watch: this command shows no state: status and lists do")
    }
    let namespace = args.mesh_namespace.unwrap_or_else(|| NAMESPACE.into());
    contexts::choose(args.contexts, args.lab, Kubernetes { file: args.kubeconfig, namespace });
    if let Some(limit) = args.request_timeout {
        mesh_admin::answer_within(limit);
    }
    let done = match args.command {
        _ if args.watch && !watch::is_watched() => watch::run(),
        Command::Lab(command) => lab::run(command, output),
        Command::Connect(command) => connect::connect(&command, output),
        Command::Disconnect(command) => connect::disconnect(&command, output),
        Command::Status(command) => status::run(&command, output),
        Command::Service(ServiceArgs {
            command: ServiceCommand::Backends { service, namespace, what_if, node },
        }) => {
            let output = Output::of_data(args.output);
            explain::backends(&namespace.services(service.as_deref()), &what_if, node, output)
        }
        Command::Service(ServiceArgs {
            command: ServiceCommand::Explain { service, namespace, what_if, agent },
        }) => explain::explain(&namespace.services(service.as_deref()), &what_if, &agent, output),
        Command::Service(command) => service::run(&command, output),
        Command::Pod(command) => pod::run(&command, output),
        Command::Node(command) => node::run(&command, output),
        Command::Identity(command) => identity::run(&command, output),
        Command::Drain(command) => drain::run(Change::Drain, &command, output),
        Command::Undrain(command) => drain::run(Change::Undrain, &command, output),
        Command::Quarantine(command) => quarantine::run(&command, output),
        Command::Certs(command) => certs::run(command, output),
        Command::Etcd(command) => etcd::run(&command, output),
        Command::Export(command) => export::run(&command),
        Command::Import(command) => explain::import(&command, Output::of_data(args.output)),
        Command::Policy(command) => policy::run(command, args.output),
        Command::Bench(command) => bench::run(command, output),
        Command::Check(command) => check::run(&command, output),
        Command::Sysdump(command) => sysdump::run(&command, output),
        Command::Connectivity(command) => connectivity::run(&command, output),
        Command::Config(command) => config::run(&command, args.context.as_deref(), output),
        Command::Completions { shell } => completions::run(shell),
        Command::Version => version::run(output),
        Command::LabPod(command) => lab_pod::run(command, output),
    };
    Outcome::exit(done)
}
