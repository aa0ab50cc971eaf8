//! Requests to an API server: what a kubelet would report of pods, and a watch of endpoint slices.

use std::{
    pin::pin,
    sync::mpsc::Sender,
    time::{Duration, Instant},
};

use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams, WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;
use tokio::{
    runtime::Runtime,
    task::JoinSet,
    time::{MissedTickBehavior, interval_at},
};
use tokio_stream::StreamExt as _;

use super::objects::{NAME, pod_name, pod_status, readiness};
use crate::Kind;

/// A client of the API server of one cluster.
pub(super) struct ApiServer {
    runtime: Runtime,
    client: Client,
}

/// Tasks that change pods. Each returns how many it changed.
pub(super) type Changing = JoinSet<u64>;

/// Tasks that change pods side by side, so that a slow answer does not lower the rate.
const WORKERS: u32 = 10;

// === impl ApiServer ===

impl ApiServer {
    /// Connects with the kubeconfig of the fleet.
    pub(super) fn open(mesh: &Kind, cluster: &str) -> Self {
        let view = ["config", "view", "--raw", "--flatten", "--minify"];
        let kubeconfig = Kubeconfig::from_yaml(&mesh.kubectl_done(cluster, &view));
        let kubeconfig = kubeconfig.expect("a kubeconfig");
        let runtime = Runtime::new().expect("a runtime");
        let client = runtime.block_on(async {
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
            Client::try_from(config.expect("a context")).expect("a client")
        });
        Self { runtime, client }
    }

    /// Reports of all pods that they run.
    pub(super) fn start_pods(&self, pods: u32) {
        self.patch_all(pods, pod_status);
    }

    /// Reports of all pods that they are ready.
    pub(super) fn set_all_ready(&self, pods: u32) {
        self.patch_all(pods, |_| readiness(true));
    }

    fn patch_all(&self, pods: u32, status: impl Fn(u32) -> Value) {
        self.runtime.block_on(async {
            for n in 0..pods {
                patch(&self.client, n, status(n)).await;
            }
        });
    }

    /// Changes the readiness of the first pod. Returns when the API server has answered.
    pub(super) fn set_ready(&self, ready: bool) -> Instant {
        self.runtime.block_on(patch(&self.client, 0, readiness(ready)));
        Instant::now()
    }

    /// Changes the readiness of pods, this often a second.
    pub(super) fn change(&self, pods: u32, rate: u32, time: Duration) -> Changing {
        let _entered = self.runtime.enter();
        let mut tasks = JoinSet::new();
        let began = tokio::time::Instant::now();
        for worker in 0..WORKERS {
            let client = self.client.clone();
            tasks.spawn(async move {
                let period = Duration::from_secs(1) * WORKERS / rate;
                let mut ticks = interval_at(began + period * worker / WORKERS, period);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
                let mut done = 0;
                for turn in 0.. {
                    ticks.tick().await;
                    if began.elapsed() >= time {
                        break;
                    }
                    // Each pod becomes not ready and then ready again, so that most are ready at any time.
                    let n = (worker + WORKERS * (turn / 2)) % pods;
                    patch(&client, n, readiness(turn % 2 == 1)).await;
                    done += 1;
                }
                done
            });
        }
        tasks
    }

    /// Waits for the last answers. Returns how many changes were made.
    pub(super) fn done(&self, changing: Changing) -> u64 {
        self.runtime.block_on(changing.join_all()).into_iter().sum()
    }

    /// Sends the time of each change of a slice of the service.
    pub(super) fn watch_slices(&self, sender: Sender<Instant>) {
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), NAME);
        self.runtime.spawn(async move {
            // The API server ends a watch after some minutes; the next one begins with what is there.
            loop {
                let watch = slices.watch(&WatchParams::default(), "0").await.expect("a watch");
                let mut watch = pin!(watch);
                while let Some(Ok(event)) = watch.next().await {
                    let changed = matches!(event, WatchEvent::Modified(_));
                    if changed && sender.send(Instant::now()).is_err() {
                        return;
                    }
                }
            }
        });
    }
}

/// Merges a status into that of a pod.
async fn patch(client: &Client, n: u32, status: Value) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAME);
    let (name, status) = (pod_name(n), Patch::Strategic(status));
    let done = pods.patch_status(&name, &PatchParams::default(), &status).await;
    done.unwrap_or_else(|error| panic!("the status of pod {n}: {error}"));
}
