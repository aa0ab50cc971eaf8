//! `clustermesh-apiserver`: exports a cluster's objects to its etcd, for the clusters that may read it.

mod admin;
mod args;
mod ca;
mod certificates;
mod clashes;
mod cluster;
mod drain;
mod etcd_init;
mod identity_allocation;
mod init;
mod installation;
mod local_access;
mod metrics;
mod peer;
mod run;
mod source;
mod users_file;
mod writer;

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// Lists of an API server's objects come and go, while what is kept of them is small: `docs/adr/0037-jemalloc-in-the-agent.md`.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// One arena for all threads, and freed memory goes back to the kernel after a second, as in the agent.
// SAFETY: jemalloc reads the symbol of this name as a pointer to a C string, and a reference begins with its pointer.
#[expect(unsafe_code, reason = "this is how jemalloc is configured at build time")]
#[unsafe(export_name = "_rjem_malloc_conf")]
static MALLOC_CONF: &[u8] = b"narenas:1,background_thread:true,dirty_decay_ms:1000\0";

fn main() -> ExitCode {
    let (mut cli, in_force) = mesh_admin::flags::parse::<args::Cli>();
    cli.serve.in_force = in_force;
    mesh_admin::exit_code(start(cli))
}

fn start(args::Cli { command, serve }: args::Cli) -> anyhow::Result<()> {
    mesh_certs::install_crypto();
    match command {
        None => {
            mesh_admin::logs::init(&serve.log)?;
            run::run(serve)
        }
        Some(args::Command::AdminProxy(proxy)) => Ok(proxy.run(args::ADMIN_SOCKET)?),
        Some(args::Command::EtcdInit(init)) => {
            mesh_admin::logs::init(&init.log)?;
            etcd_init::run(init)
        }
        Some(args::Command::Init(args)) => {
            mesh_admin::logs::init(&args.log)?;
            init::run(&args)
        }
        Some(args::Command::Peer(peer)) => peer::run(peer),
        Some(args::Command::Ca(ca)) => ca::run(ca),
        Some(args::Command::StopEtcd) => ca::stop_etcd(),
    }
}
