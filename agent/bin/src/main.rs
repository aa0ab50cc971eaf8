//! `clustermesh-agent`: follows the own cluster's etcd and every peer's, and keeps this node's kernel equal to what they
//! say.

mod admin;
mod args;
mod attachments;
mod mesh;
mod metrics;
mod own_cgroup;
mod peer_files;
mod peers;
mod pods;
mod probe;
mod prober;
mod rate_limit;
mod run;
mod snapshots;

use clap::Parser as _;

fn main() -> anyhow::Result<()> {
    let args = args::Args::parse();
    mesh_admin::logs::init(&args.log)?;
    mesh_certs::install_crypto();
    run::run(args)
}
