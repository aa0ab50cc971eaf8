//! `clustermesh-agent`: follows the own cluster's etcd and every peer's, and keeps this node's kernel equal to what they
//! say.

mod admin;
mod args;
mod driver;
mod etcd_addresses;
mod follower;
mod message;
mod metrics;
mod node;
mod peers;
mod pods;
mod probe_answer;
mod programs;
mod routes;
mod run;
mod snapshots;
mod sockets;

use clap::Parser as _;

fn main() -> anyhow::Result<()> {
    let args = args::Args::parse();
    mesh_admin::logs::init(&args.log)?;
    mesh_certs::install_crypto();
    run::run(args)
}
