//! `clustermesh-apiserver`: exports a cluster's objects into its etcd, for the clusters that may read it.

mod admin;
mod args;
mod cluster;
mod drain;
mod identity_allocation;
mod metrics;
mod run;
mod writer;

use clap::Parser as _;

fn main() -> anyhow::Result<()> {
    let args = args::Args::parse();
    mesh_admin::logs::init(&args.log)?;
    mesh_certs::install_crypto();
    run::run(args)
}
