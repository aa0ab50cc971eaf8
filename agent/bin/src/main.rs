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
use tikv_jemallocator::Jemalloc;

/// What is allocated by one thread is freed by another here: `docs/adr/0037-jemalloc-in-the-agent.md`.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> anyhow::Result<()> {
    let args = args::Args::parse();
    mesh_admin::logs::init(&args.log)?;
    mesh_certs::install_crypto();
    run::run(args)
}
