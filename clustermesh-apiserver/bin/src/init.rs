//! `init`: makes the cluster directory of a pod, before its etcd and apiserver start.

use std::{fs, time::SystemTime};

use anyhow::Context as _;
use mesh_certs::ClusterPki;
use mesh_files::{Access, write_atomic};
use mesh_model::{ClusterId, ClusterLimit, ClusterName};
use mesh_source::cluster_directory::{ClusterDirectory, ClusterSettings};
use mesh_source_kube::{Connection, FoundRanges, cluster_ranges};

use crate::{
    args::InitArgs,
    certificates::{Issuing, obtain_ca},
};

/// Writes `cluster.yaml` from the flags, and `pki/` from the Secret with the CA, which is made if there is none.
pub(crate) fn run(args: &InitArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(make(args))
}

async fn make(args: &InitArgs) -> anyhow::Result<()> {
    let directory = ClusterDirectory::new(&args.config_dir);
    // That the flags are valid is known before anything is asked.
    let mut settings = settings(args)?;
    let api = Connection::open(&args.api.choice()).await?;
    if settings.pod_cidrs.is_empty() || settings.service_cidrs.is_empty() {
        take_ranges(&mut settings, cluster_ranges(&api).await);
    }
    let settings_file = directory.settings_file();
    fs::create_dir_all(directory.path()).with_context(|| directory.path().display().to_string())?;
    write_atomic(&settings_file, settings.to_yaml()?.as_bytes(), Access::All)
        .with_context(|| settings_file.display().to_string())?;
    let now = SystemTime::now();
    let issuing = Issuing {
        cluster: settings.name,
        namespace: api.namespace().to_owned(),
        pki: ClusterPki::new(&directory.pki()),
        lifetime: args.certificate_lifetime,
    };
    let ca = obtain_ca(&api, &issuing.cluster, now).await?;
    let issued = issuing.write(&ca, &[], now)?;
    tracing::info!(
        directory = %directory.path().display(),
        issued = issued.join(", "),
        "the cluster directory is ready"
    );
    Ok(())
}

/// Takes what Kubernetes knows of ranges that no flag names.
fn take_ranges(settings: &mut ClusterSettings, found: FoundRanges) {
    for problem in found.problems {
        tracing::warn!(problem, "the ranges of pods and services are not known by themselves");
    }
    for (what, known, found) in [
        ("pods", &mut settings.pod_cidrs, found.pods),
        ("services", &mut settings.service_cidrs, found.services),
    ] {
        if known.is_empty() && !found.is_empty() {
            let ranges = found.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            tracing::info!(what, ranges, "ranges are taken from the API server");
            *known = found;
        }
    }
}

fn settings(args: &InitArgs) -> anyhow::Result<ClusterSettings> {
    let limit =
        ClusterLimit::try_from(args.max_connected_clusters).context("--max-connected-clusters")?;
    let settings = ClusterSettings {
        name: ClusterName::new(&args.cluster_name).context("--cluster-name")?,
        id: ClusterId::new(args.cluster_id, limit).context("--cluster-id")?,
        limit,
        pod_cidrs: args.pod_cidrs.clone(),
        service_cidrs: args.service_cidrs.clone(),
        node_cidrs: args.node_cidrs.clone(),
        endpoints: Vec::new(),
        default_global_namespace: args.default_global_namespace,
    };
    // With all rules of a `cluster.yaml`.
    Ok(ClusterSettings::parse(&settings.to_yaml()?)?)
}
