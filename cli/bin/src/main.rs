//! `clustermesh`: the mesh from the command line. One module a noun; every command goes through what the daemons offer.

mod args;
mod bench;
mod certs;
mod completions;
mod connect;
mod contexts;
mod etcd;
mod explain;
mod export;
mod lab;
mod lab_pod;
mod outcome;
mod output;
mod pod;
mod quarantine;
mod rotate;
mod service;
mod status;
mod version;

use std::process::ExitCode;

use clap::Parser as _;

use crate::{
    args::{Args, Command, ServiceArgs, ServiceCommand},
    outcome::Outcome,
    output::Output,
};

fn main() -> ExitCode {
    mesh_certs::install_crypto();
    let args = Args::parse();
    let output = Output::new(args.output);
    let done = match args.command {
        Command::Lab(command) => lab::run(command, output),
        Command::Connect(command) => connect::connect(&command, output),
        Command::Disconnect(command) => connect::disconnect(&command, output),
        Command::Status(command) => status::run(&command, output),
        Command::Service(ServiceArgs {
            command: ServiceCommand::Backends { service, what_if },
        }) => {
            let output = Output::of_data(args.output);
            explain::backends(service.as_deref(), &what_if, output)
        }
        Command::Service(ServiceArgs { command: ServiceCommand::Explain { service, what_if } }) => {
            explain::explain(service.as_deref(), &what_if, output)
        }
        Command::Service(command) => service::run(&command, output),
        Command::Pod(command) => pod::run(&command, output),
        Command::Quarantine(command) => quarantine::run(&command, output),
        Command::Certs(command) => certs::run(command, output),
        Command::Etcd(command) => etcd::run(&command, output),
        Command::Export(command) => export::run(&command),
        Command::Import(command) => explain::import(&command, Output::of_data(args.output)),
        Command::Bench(command) => bench::run(command, output),
        Command::Completions { shell } => completions::run(shell),
        Command::Version => version::run(output),
        Command::LabPod(command) => lab_pod::run(command, output),
    };
    Outcome::exit(done)
}
