//! The test in a lab.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, bail};
use mesh_lab::{Lab, workload::Source};

use super::{NAMESPACE, check, site::Site};

/// How long a removed pod keeps running.
const GRACE: Duration = Duration::from_millis(200);

/// A lab, with all of its clusters.
pub(super) struct LabSite {
    lab: String,
    clusters: Vec<String>,
}

impl LabSite {
    pub(super) fn new(lab: String) -> anyhow::Result<Self> {
        let clusters = Lab::peek(&lab)?.clusters.into_iter().map(|cluster| cluster.name).collect();
        Ok(Self { lab, clusters })
    }

    fn manifest(&self, cluster: &str, replicas: u32) -> String {
        check::manifest(NAMESPACE, cluster, &self.clusters, replicas)
    }
}

impl Site for LabSite {
    fn clusters(&self) -> &[String] {
        &self.clusters
    }

    fn apply(&self, cluster: &str, replicas: u32) -> anyhow::Result<()> {
        let manifest = self.manifest(cluster, replicas);
        let mut lab = Lab::open(&self.lab)?;
        lab.apply(cluster, Source::Manifest(NAMESPACE), &manifest, GRACE, &mut |_| {})
            .with_context(|| format!("cluster {cluster}"))?;
        Ok(())
    }

    fn remove(&self) -> Vec<anyhow::Error> {
        let remove = |cluster: &String| {
            let manifest = self.manifest(cluster, 1);
            let removed = Lab::open(&self.lab)
                .and_then(|mut lab| lab.delete(cluster, &manifest, GRACE, &mut |_| {}));
            removed.map(drop).with_context(|| format!("cluster {cluster}")).err()
        };
        self.clusters.iter().filter_map(remove).collect()
    }

    fn client(&self, cluster: &str) -> anyhow::Result<Vec<IpAddr>> {
        let state = Lab::peek(&self.lab)?;
        let (_, client) = state.pod(&format!("{cluster}/{NAMESPACE}/client"))?;
        Ok(client.ips.clone())
    }

    fn service(&self, cluster: &str, name: &str) -> anyhow::Result<Vec<IpAddr>> {
        Ok(Lab::open(&self.lab)?.service_addresses(cluster, NAMESPACE, name)?)
    }

    fn run(&self, cluster: &str, words: &[&str]) -> anyhow::Result<Vec<u8>> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        let lab = Lab::open(&self.lab)?;
        let mut command = lab.command_in_pod(&format!("{cluster}/{NAMESPACE}/client"), &words)?;
        // Other commands may use the lab meanwhile.
        drop(lab);
        let ended = command.output().context("the client")?;
        if !ended.status.success() {
            let complaint = String::from_utf8_lossy(&ended.stderr);
            // It names the address.
            bail!("{}", complaint.trim().trim_start_matches("error: "));
        }
        Ok(ended.stdout)
    }
}
