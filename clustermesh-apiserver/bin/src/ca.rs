//! `ca`: the steps of an exchange of the cluster's CA that need its key, and `stop-etcd`.
//!
//! `clustermesh certs rotate` runs these commands in the pods of the apiserver. A CA is made in the cluster, and its key stays in
//! the Secret.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr},
    time::SystemTime,
};

use anyhow::{Context as _, ensure};
use mesh_certs::{Ca, ClusterPki, cas_of_server};
use mesh_source::cluster_directory::ClusterDirectory;
use mesh_source_kube::Connection;
use mesh_wire::rotation::CaState;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    args::{CaArgs, CaCommand},
    certificates::{CaStep, Issuing, LOCAL, LOCAL_CERTIFICATE, change_ca, present_ca},
    local_access::PORT,
};

/// Runs one of the commands.
pub(crate) fn run(args: CaArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let state = runtime.block_on(answer(args))?;
    Ok(writeln!(io::stdout().lock(), "{}", serde_json::to_string(&state)?)?)
}

async fn answer(args: CaArgs) -> anyhow::Result<CaState> {
    let directory = ClusterDirectory::new(&args.config_dir);
    let cluster = directory.settings()?.name;
    let api = Connection::open(&args.api.choice()).await?;
    let issuing = Issuing {
        cluster,
        namespace: api.namespace().to_owned(),
        pki: ClusterPki::new(&directory.pki()),
        lifetime: args.certificate_lifetime,
    };
    let step = match args.command {
        CaCommand::Describe | CaCommand::Renew { .. } => None,
        CaCommand::Succeed => Some(CaStep::Succeed),
        CaCommand::Sign => Some(CaStep::Sign),
        CaCommand::Forget => Some(CaStep::Forget),
    };
    if let Some(step) = step {
        change_ca(&api, &issuing.cluster, step).await?;
    }
    if let CaCommand::Renew { again } = &args.command {
        let again: Vec<&str> = again.iter().map(String::as_str).collect();
        issuing.renew(&api, &again).await?;
    }
    describe(&issuing, &api).await
}

async fn describe(issuing: &Issuing, api: &Connection) -> anyhow::Result<CaState> {
    let Issuing { cluster, pki, .. } = issuing;
    let ca = present_ca(api).await?;
    let signer = Ca::load(&ca.certificate, &ca.key, SystemTime::now());
    let read = |name| fs::read_to_string(pki.certificate(name)).unwrap_or_default();
    let local = api.stored(LOCAL).await?.unwrap_or_default();
    let local = local.texts.get(LOCAL_CERTIFICATE).cloned().unwrap_or_default();
    let certificates = [("server", read("server")), ("admin", read("admin")), ("local", local)];
    let (name, cas) = (format!("{cluster}.mesh.cilium.io"), read("ca"));
    let etcd = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let (etcd, etcd_error) = match cas_of_server(etcd, &name, &cas) {
        Ok(subjects) => (subjects, None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    Ok(CaState {
        trusted: ca.certificate,
        signer: signer.map(|signer| signer.certificate().to_owned()).unwrap_or_default(),
        in_pod: cas,
        certificates: BTreeMap::from(certificates.map(|(name, text)| (name.to_owned(), text))),
        etcd,
        etcd_error,
    })
}

/// Ends the etcd of this container, of which it is the first process.
pub(crate) fn stop_etcd() -> anyhow::Result<()> {
    const FIRST: i32 = 1;
    let name = fs::read_to_string(format!("/proc/{FIRST}/comm")).context("the first process")?;
    ensure!(
        name.trim() == "etcd",
        "the first process is {:?}, not an etcd: run this in the container etcd",
        name.trim()
    );
    Ok(kill(Pid::from_raw(FIRST), Signal::SIGTERM)?)
}
