//! `clustermesh-agent`: follows the local cluster's etcd and every peer's, and keeps this node's kernel equal to what they
//! say.

mod admin;
mod args;
mod driver;
mod message;
mod metrics;
mod node;
mod pods;
mod run;

use clap::Parser as _;

fn main() -> anyhow::Result<()> {
    let args = args::Args::parse();
    mesh_admin::logs::init(&args.log)?;
    mesh_certs::install_crypto();
    run::run(args)
}
