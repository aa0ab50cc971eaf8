//! What is kept of a scenario that failed: logs, the contents of etcds and kernels, and Kubernetes' view of all clusters.

use std::{fs, path::PathBuf, thread};

use super::{Kind, SYSTEM, repository};
use crate::{
    kernel::try_services,
    mesh::{Mesh, output},
};

impl Kind {
    /// Writes everything into one folder, and prints its path. What cannot be had is said there.
    pub(super) fn keep_evidence(&self) {
        let test = thread::current().name().unwrap_or("scenario").replace("::", "-");
        let folder = repository().join("target/kind-failures").join(test);
        let _ = fs::remove_dir_all(&folder);
        for cluster in &self.clusters {
            let into = folder.join(cluster);
            if let Err(error) = fs::create_dir_all(&into) {
                println!("{}: {error}", into.display());
                return;
            }
            self.keep(cluster, into);
        }
        println!("logs, etcds and tables of each cluster: {}", folder.display());
    }

    fn keep(&self, cluster: &str, into: PathBuf) {
        let write = |name: &str, text: Result<String, String>| {
            let text = text.unwrap_or_else(|error| format!("not to be had: {error}"));
            let _ = fs::write(into.join(name), text);
        };
        let archive = into.join("sysdump.tar.gz").display().to_string();
        let sysdump = ["sysdump", "--context", cluster, "--output-file", &archive];
        write("sysdump.txt", output(self.clustermesh(&sysdump)));
        write("etcd.txt", output(self.clustermesh(&["etcd", "dump", "--context", cluster])));
        write("status.txt", output(self.clustermesh(&["status", "--context", cluster])));
        let limit = ["--request-timeout", "10s"];
        let kubectl = |args: &[&str]| output(self.kubectl(cluster, &[args, &limit].concat()));
        let all = "nodes,pods,services,endpointslices,deployments,statefulsets,daemonsets";
        write("objects.txt", kubectl(&["get", all, "--all-namespaces", "--output", "wide"]));
        let events = ["get", "events", "--all-namespaces", "--sort-by", ".lastTimestamp"];
        write("events.txt", kubectl(&events));
        for previous in [false, true] {
            let selector = "app.kubernetes.io/part-of=clustermesh";
            let logs = ["logs", "--namespace", SYSTEM, "--selector", selector, "--prefix"];
            let more = ["--all-containers", "--tail", "5000", "--max-log-requests", "20"];
            let flag = format!("--previous={previous}");
            let name = if previous { "logs-of-previous-containers.txt" } else { "logs.txt" };
            write(name, kubectl(&[&logs[..], &more, &[flag.as_str()]].concat()));
        }
        let nodes = kubectl(&["get", "nodes", "--output", "jsonpath={.items[*].metadata.name}"]);
        for node in nodes.unwrap_or_default().split_whitespace() {
            let pid = self.docker_done(&["inspect", "--format", "{{.State.Pid}}", node]);
            let tables = pid.and_then(|pid| {
                let pins = format!("/proc/{}/root/sys/fs/bpf/clustermesh", pid.trim());
                try_services(pins.as_ref()).map(|found| format!("{found:#?}"))
            });
            write(&format!("tables-{node}.txt"), tables);
        }
    }
}
