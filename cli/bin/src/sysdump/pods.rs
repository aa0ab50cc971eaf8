//! The pods of a mesh in Kubernetes, and their logs.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::{
    Api,
    api::{ListParams, LogParams},
};

use super::{Collected, LOG, redact};
use crate::{ask::all, kube_exec::Cluster};

/// A container, and whether a previous run of it has a log too.
struct Container {
    pod: String,
    name: String,
    previous: bool,
}

impl Collected {
    /// The pods in the namespace of the mesh as the API server has them, and the ends of the logs of their containers.
    pub(super) fn pods(&mut self, cluster: &Cluster) {
        let context = cluster.context().replace('/', "-");
        let namespace = cluster.namespace().to_owned();
        let pods = cluster.request(move |client| async move {
            Api::<Pod>::namespaced(client, &namespace).list(&ListParams::default()).await
        });
        let pods = match pods {
            Ok(pods) => pods.items,
            Err(error) => return self.missing.push(format!("{context}/pods: {error:#}")),
        };
        for pod in &pods {
            let name = pod.metadata.name.clone().unwrap_or_default();
            match serde_json::to_string_pretty(pod) {
                Ok(text) => self.files.push((format!("{context}/pods/{name}.json"), redact(&text))),
                Err(error) => self.missing.push(format!("{context}/pods/{name}.json: {error}")),
            }
        }
        let containers: Vec<Container> = pods.iter().flat_map(containers).collect();
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { return };
        let read = async |container| read(cluster, container).await;
        for (path, text) in runtime.block_on(all(containers, read)) {
            match text {
                Ok(text) => self.files.push((format!("{context}/logs/{path}"), redact(&text))),
                Err(error) => self.missing.push(format!("{context}/logs/{path}: {error:#}")),
            }
        }
    }
}

/// The containers of a pod that have a log, and those whose previous run has one.
fn containers(pod: &Pod) -> Vec<Container> {
    let Some(status) = &pod.status else { return Vec::new() };
    let statuses = [&status.init_container_statuses, &status.container_statuses];
    let statuses = statuses.into_iter().flatten().flatten();
    let of = |status: &ContainerStatus| {
        let container = |previous| Container {
            pod: pod.metadata.name.clone().unwrap_or_default(),
            name: status.name.clone(),
            previous,
        };
        let has_begun = status.state.as_ref().is_some_and(|state| state.waiting.is_none());
        let current = has_begun.then(|| container(false));
        let previous = (status.restart_count > 0).then(|| container(true));
        current.into_iter().chain(previous).collect::<Vec<_>>()
    };
    statuses.flat_map(of).collect()
}

/// The end of a container's log, with its file.
async fn read(cluster: &Cluster, container: Container) -> (String, anyhow::Result<String>) {
    let Container { pod, name, previous } = container;
    let suffix = if previous { ".previous" } else { "" };
    let path = format!("{pod}-{name}{suffix}.log");
    let parameters = LogParams {
        container: Some(name),
        previous,
        timestamps: true,
        tail_lines: Some(20_000),
        ..LogParams::default()
    };
    let namespace = cluster.namespace().to_owned();
    let text = cluster.answer(move |client| async move {
        Api::<Pod>::namespaced(client, &namespace).logs(&pod, &parameters).await
    });
    let text = text.await.map(|text| {
        let bytes = text.as_bytes();
        let end = bytes.get(bytes.len().saturating_sub(LOG)..).unwrap_or_default();
        String::from_utf8_lossy(end).into_owned()
    });
    (path, text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn logs_of_what_has_begun_and_of_previous_runs() {
        let status = |name: &str, state: &str, restarts: u32| json!({ "name": name, "image": "", "imageID": "", "ready": true, "restartCount": restarts, "state": { state: {} } });
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p" },
            "status": {
                "initContainerStatuses": [status("keys", "running", 0)],
                "containerStatuses": [status("etcd", "running", 2), status("apiserver", "waiting", 0)],
            },
        }))
        .unwrap();
        let found: Vec<_> = containers(&pod).into_iter().map(|c| (c.name, c.previous)).collect();
        let wanted = [("keys", false), ("etcd", false), ("etcd", true)];
        assert_eq!(found, wanted.map(|(name, previous)| (name.to_owned(), previous)));
    }
}
