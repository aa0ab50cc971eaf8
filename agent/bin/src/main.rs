//! `clustermesh-agent`: follows the local cluster's etcd and every peer's, and keeps this node's kernel equal to their
//! state.

mod admin;
mod alone;
mod args;
mod cli;
mod driver;
mod message;
mod pods;
mod run;

use std::process::ExitCode;

use anyhow::Context as _;
use mesh_files::BPF_FS;
use tikv_jemallocator::Jemalloc;

use crate::{
    args::Args,
    cli::{Cli, Once},
};

/// Memory that one thread allocates is freed by another here: `docs/adr/0037-jemalloc-in-the-agent.md`.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// One arena for all threads, and freed memory goes back to the kernel after a second, also where nothing is allocated
/// any more (jemalloc(3), "TUNING").
// SAFETY: jemalloc reads the symbol of this name as a pointer to a C string, and a reference begins with its pointer.
#[expect(unsafe_code, reason = "this is how jemalloc is configured at build time")]
#[unsafe(export_name = "_rjem_malloc_conf")]
static MALLOC_CONF: &[u8] = b"narenas:1,background_thread:true,dirty_decay_ms:1000\0";

fn main() -> ExitCode {
    let (cli, in_force) = mesh_admin::flags::parse::<Cli>();
    mesh_admin::exit_code(match cli {
        Cli::Daemon(args) => start(Args { in_force, ..*args }),
        Cli::Command(Once::MountBpffs) => mount_bpffs(),
        Cli::Command(Once::AdminProxy(proxy)) => proxy.run(args::ADMIN_SOCKET).map_err(Into::into),
        Cli::Command(Once::Connect) => {
            mesh_hooks::connect_once();
            Ok(())
        }
    })
}

fn start(args: Args) -> anyhow::Result<()> {
    mesh_admin::logs::init(&args.log)?;
    mesh_certs::install_crypto();
    if let Some(missing) = mesh_dataplane::missing_capabilities() {
        anyhow::bail!(missing);
    }
    run::run(args)
}

fn mount_bpffs() -> anyhow::Result<()> {
    mesh_files::mount_bpf_fs()
        .with_context(|| format!("no BPF file system can be mounted at {BPF_FS}"))
}
