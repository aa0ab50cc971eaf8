//! `clustermesh-apiserver`: exports a cluster's objects into its etcd, for the clusters that may read it.

mod admin;
mod args;
mod clashes;
mod cluster;
mod drain;
mod etcd_init;
mod identity_allocation;
mod metrics;
mod run;
mod source;
mod users_file;
mod writer;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    mesh_admin::exit_code(start(args::Cli::parse()))
}

fn start(args::Cli { command, serve }: args::Cli) -> anyhow::Result<()> {
    mesh_certs::install_crypto();
    match command {
        None => {
            mesh_admin::logs::init(&serve.log)?;
            run::run(serve)
        }
        Some(args::Command::EtcdInit(init)) => {
            mesh_admin::logs::init(&init.log)?;
            etcd_init::run(init)
        }
    }
}
