//! A mesh that is installed in Kubernetes, as a kubeconfig reaches it: its pods, and commands that run in them. All is done
//! with the rights of the kubeconfig's user: list pods and nodes, and create and get pods/exec.

mod bridge;
mod contexts;
mod failure;
mod pods;

use std::{path::Path, sync::OnceLock, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{Node, Pod},
    },
    apimachinery::pkg::apis::meta::v1::Status,
};
use kube::{
    Api, Client, Config,
    api::{AttachParams, AttachedProcess, ListParams},
    config::KubeConfigOptions,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    runtime::Runtime,
    sync::{Semaphore, SemaphorePermit},
    time::{error::Elapsed, timeout},
};

pub(crate) use bridge::{Place, Remote, opening};
pub(crate) use contexts::KubeContexts;
use contexts::read;
use failure::{of_exec, sentence};
pub(crate) use pods::MeshPod;
use pods::{DeadNodes, add_missing, pods_of};

/// A cluster that a kubeconfig's context names, and the namespace of the mesh in it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
    context: String,
    namespace: String,
}

/// A command that runs in a pod. It ends with this.
pub(crate) struct Running {
    pub(crate) process: AttachedProcess,
    _permit: SemaphorePermit<'static>,
}

/// The kinds of pods of a mesh. The name is their label, and that of the Deployment or DaemonSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Component {
    Apiserver,
    Agent,
}

/// How long a connection may take to be made, and a list or the start of a command. An API server gives up on a node that
/// does not answer much later.
const CONNECT: Duration = Duration::from_secs(5);
const START: Duration = Duration::from_secs(15);
/// The commands that run at a time: an API server and its nodes have other work too.
static AT_ONCE: Semaphore = Semaphore::const_new(16);
/// The bytes of a command's input and output that wait in memory.
const BUFFER: usize = 64 * 1024;

// === impl Cluster ===

impl Cluster {
    /// The cluster of a kubeconfig's context; asks it nothing. `file`: as in [`KubeContexts::read`].
    ///
    /// # Errors
    /// There is no such context, or its credentials cannot be used.
    pub(crate) fn open(
        context: &str,
        file: Option<&Path>,
        namespace: &str,
    ) -> anyhow::Result<Self> {
        let options =
            KubeConfigOptions { context: Some(context.to_owned()), ..KubeConfigOptions::default() };
        let kubeconfig = read(file).context("the kubeconfig")?;
        let made = wait(async move {
            let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
            config.connect_timeout = Some(CONNECT);
            // A client belongs to the runtime in which it is made.
            anyhow::Ok(Client::try_from(config)?)
        });
        let client = made?.with_context(|| format!("the kubeconfig's context {context}"))?;
        Ok(Self { client, context: context.to_owned(), namespace: namespace.to_owned() })
    }

    /// The name of the kubeconfig's context.
    pub(crate) fn context(&self) -> &str {
        &self.context
    }

    /// The namespace of the mesh.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The same cluster, for pods in another namespace.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self.clone() }
    }

    /// Makes another request, for the namespace of the mesh or the whole cluster.
    ///
    /// # Errors
    /// The API server does not answer in time, or refuses.
    pub(crate) fn request<T: Send + 'static, F>(
        &self,
        ask: impl FnOnce(Client) -> F,
    ) -> anyhow::Result<T>
    where
        F: Future<Output = kube::Result<T>> + Send + 'static,
    {
        let request = ask(self.client.clone());
        self.in_words(wait(timely(request))?)
    }

    /// As [`Self::request`], for a caller that waits for several answers.
    pub(crate) async fn answer<T: Send + 'static, F>(
        &self,
        ask: impl FnOnce(Client) -> F,
    ) -> anyhow::Result<T>
    where
        F: Future<Output = kube::Result<T>> + Send + 'static,
    {
        let request = ask(self.client.clone());
        self.in_words(runtime()?.spawn(timely(request)).await?)
    }

    fn in_words<T>(&self, answer: Result<kube::Result<T>, Elapsed>) -> anyhow::Result<T> {
        let answer = answer.map_err(|_| anyhow!("no answer within {START:?}"));
        let answer = answer.and_then(|answer| answer.map_err(|error| anyhow!(sentence(&error))));
        answer.with_context(|| self.context.clone())
    }

    /// A pod of a component in which commands can run.
    ///
    /// # Errors
    /// There is none; as [`Self::pods`].
    pub(crate) fn usable(&self, component: Component) -> anyhow::Result<MeshPod> {
        let pods = self.pods(component)?;
        let usable = pods.iter().find(|pod| pod.unusable.is_none());
        if let Some(usable) = usable {
            return Ok(usable.clone());
        }
        let (context, namespace, name) = (&self.context, &self.namespace, component.name());
        match pods.into_iter().next() {
            Some(MeshPod { name, unusable, .. }) => {
                bail!("{context}: {name}: {}", unusable.unwrap_or_default())
            }
            None => bail!(
                "{context}: the namespace {namespace} has no pod of {name}: install the mesh there first (docs/kubernetes.md)"
            ),
        }
    }

    /// The pods of a component, by node and name. One in which nothing can run says why ([`MeshPod::unusable`]).
    ///
    /// # Errors
    /// The API server does not answer, or the user may not list pods. If the user may not list nodes, dead nodes are found
    /// later, by a time limit.
    pub(crate) fn pods(&self, component: Component) -> anyhow::Result<Vec<MeshPod>> {
        let cluster = self.clone();
        wait(async move { cluster.list(component).await })?
    }

    /// The pods of the apiserver and those of the agents, as [`Self::pods`].
    pub(crate) fn daemons(&self) -> anyhow::Result<(Vec<MeshPod>, Vec<MeshPod>)> {
        let cluster = self.clone();
        wait(async move {
            tokio::try_join!(cluster.list(Component::Apiserver), cluster.list(Component::Agent))
        })?
    }

    async fn list(&self, component: Component) -> anyhow::Result<Vec<MeshPod>> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let nodes: Api<Node> = Api::all(self.client.clone());
        let labels =
            ListParams::default().labels(&format!("app.kubernetes.io/name={}", component.name()));
        let everything = ListParams::default();
        let (pods, nodes, wanted) = tokio::join!(
            timeout(START, pods.list(&labels)),
            timeout(START, nodes.list(&everything)),
            self.wanted(component)
        );
        let pods = self.in_words(pods)?;
        let nodes = nodes.ok().and_then(Result::ok).map(|nodes| nodes.items).unwrap_or_default();
        let mut found = pods_of(&pods.items, component, &DeadNodes::of(&nodes));
        add_missing(&mut found, &nodes, wanted);
        Ok(found)
    }

    /// How many nodes should have a pod of the component; 0 if that is not known, or not a matter of nodes.
    async fn wanted(&self, component: Component) -> usize {
        if component != Component::Agent {
            return 0;
        }
        let sets: Api<DaemonSet> = Api::namespaced(self.client.clone(), &self.namespace);
        let set = timeout(START, sets.get(component.name())).await;
        let status = set.ok().and_then(Result::ok).and_then(|set| set.status);
        status
            .and_then(|status| status.desired_number_scheduled.try_into().ok())
            .unwrap_or_default()
    }

    /// Runs a command in a pod of the mesh until it ends. Returns its output.
    ///
    /// # Errors
    /// The command did not start, did not end within `limit`, or failed, with what it said; or the user may not run commands
    /// in pods.
    pub(crate) fn exec(
        &self,
        pod: &MeshPod,
        command: &[&str],
        stdin: &[u8],
        limit: Duration,
    ) -> anyhow::Result<Vec<u8>> {
        if let Some(why) = &pod.unusable {
            bail!("{}: {}: {why}", self.context, pod.name);
        }
        self.exec_in((&pod.name, pod.component.container()), command, stdin, limit)
    }

    /// The same in a container of any pod, `(pod, container)`.
    pub(crate) fn exec_in(
        &self,
        (pod, container): (&str, &str),
        command: &[&str],
        stdin: &[u8],
        limit: Duration,
    ) -> anyhow::Result<Vec<u8>> {
        let (cluster, stdin) = (self.clone(), stdin.to_vec());
        let (pod, container) = (pod.to_owned(), container.to_owned());
        let command: Vec<String> = command.iter().map(ToString::to_string).collect();
        wait(async move {
            let what = command.join(" ");
            let ended = timeout(limit, cluster.run((&pod, &container), command, &stdin)).await;
            ended.with_context(|| {
                format!("{}: {pod}: no end of `{what}` within {limit:?}", cluster.context)
            })?
        })?
    }

    async fn run(
        &self,
        (pod, container): (&str, &str),
        command: Vec<String>,
        stdin: &[u8],
    ) -> anyhow::Result<Vec<u8>> {
        let Running { mut process, _permit } = self.start((pod, container), command).await?;
        let (Some(mut input), Some(mut output), Some(mut errors), Some(status)) =
            (process.stdin(), process.stdout(), process.stderr(), process.take_status())
        else {
            bail!("the command has no streams")
        };
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        // The streams do not end if the connection breaks.
        let ended = async {
            tokio::try_join!(
                async { output.read_to_end(&mut stdout).await.map_err(anyhow::Error::from) },
                async { errors.read_to_end(&mut stderr).await.map_err(anyhow::Error::from) },
                async { status.await.context("the connection to the pod broke") },
            )
        };
        // A command may end before it has read all of its input.
        let feed = async {
            if input.write_all(stdin).await.is_ok() {
                let _ = input.shutdown().await;
            }
            std::future::pending::<()>().await
        };
        let (.., status) = tokio::select! {
            ended = ended => ended.with_context(|| format!("{}: {pod}", self.context))?,
            () = feed => bail!("unreachable"),
        };
        match exit_code(&status).with_context(|| format!("{}: {pod}", self.context))? {
            0 => Ok(stdout),
            _ => bail!("{}: {pod}: {}", self.context, said(&String::from_utf8_lossy(&stderr))),
        }
    }

    /// Starts a command in a container of a pod, as soon as fewer than [`AT_ONCE`] run.
    ///
    /// # Errors
    /// As [`Self::exec`].
    async fn start(
        &self,
        (pod, container): (&str, &str),
        command: Vec<String>,
    ) -> anyhow::Result<Running> {
        let place = || format!("{}: {pod}", self.context);
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let parameters = AttachParams::default()
            .container(container)
            .stdin(true)
            .max_stdin_buf_size(BUFFER)
            .max_stdout_buf_size(BUFFER)
            .max_stderr_buf_size(BUFFER);
        let permit = AT_ONCE.acquire().await?;
        let started = timeout(START, pods.exec(pod, command, &parameters)).await;
        let late = || format!("{}: its node does not answer within {START:?}", place());
        let started = started.with_context(late)?;
        let process = started.map_err(|error| anyhow!(of_exec(&error, &self.namespace)));
        let process = process.with_context(place)?;
        Ok(Running { process, _permit: permit })
    }
}

/// A request that ends in time. The limit is made on the runtime that runs it.
async fn timely<T>(request: impl Future<Output = T>) -> Result<T, Elapsed> {
    timeout(START, request).await
}

/// What a command wrote to its standard error before it failed, as a message.
fn said(stderr: &str) -> &str {
    let stderr = stderr.trim();
    stderr.strip_prefix("error: ").unwrap_or(stderr)
}

/// The exit code that a command's status has.
fn exit_code(status: &Status) -> anyhow::Result<i32> {
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    let code = causes.filter(|cause| cause.reason.as_deref() == Some("ExitCode"));
    let code = code.filter_map(|cause| cause.message.as_ref()?.parse().ok()).next();
    code.with_context(|| {
        status.message.clone().unwrap_or_else(|| "the command did not start".into())
    })
}

// === impl Component ===

impl Component {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Apiserver => "clustermesh-apiserver",
            Self::Agent => "clustermesh-agent",
        }
    }

    /// The container of its pods in which commands run.
    fn container(self) -> &'static str {
        match self {
            Self::Apiserver => "apiserver",
            Self::Agent => "agent",
        }
    }
}

/// The runtime of all connections to API servers. It lives as long as the process: a command may use several of its own.
pub(crate) fn runtime() -> anyhow::Result<&'static Runtime> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if RUNTIME.get().is_none() {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let made = builder.worker_threads(1).thread_name("kubernetes").enable_all().build()?;
        let _ = RUNTIME.set(made);
    }
    RUNTIME.get().context("no runtime")
}

/// Waits for work on that runtime. May be called in another runtime too.
fn wait<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> anyhow::Result<T> {
    let (done, result) = std::sync::mpsc::channel();
    runtime()?.spawn(async move { done.send(work.await) });
    result.recv().context("the request ended early")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_the_exit_code_of_its_status() {
        let code = |json: &str| exit_code(&serde_json::from_str(json).unwrap());
        assert_eq!(code(r#"{"status":"Success","metadata":{}}"#).unwrap(), 0);
        let failed = r#"{"status":"Failure","reason":"NonZeroExitCode","message":"command terminated",
            "details":{"causes":[{"reason":"Other","message":"7"},{"reason":"ExitCode","message":"3"}]}}"#;
        assert_eq!(code(failed).unwrap(), 3);
        let absent =
            r#"{"status":"Failure","reason":"InternalError","message":"exec: no such file"}"#;
        assert_eq!(code(absent).unwrap_err().to_string(), "exec: no such file");
        assert_eq!(code("{}").unwrap_err().to_string(), "the command did not start");
    }

    /// A kubeconfig's contexts are read without asking their clusters.
    #[test]
    fn contexts_of_a_kubeconfig() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        let text = "apiVersion: v1\nkind: Config\ncurrent-context: two\ncontexts:\n- name: one\n  context: {cluster: c, user: u}\n- name: two\n  context: {cluster: c, user: u}\nclusters:\n- name: c\n  cluster: {server: 'https://127.0.0.1:1'}\nusers: []\n";
        std::fs::write(&file, text).unwrap();
        let found = KubeContexts::read(Some(&file)).unwrap();
        assert_eq!(
            (found.names.join(" "), found.current.as_deref()),
            ("one two".into(), Some("two"))
        );
        assert_eq!(Cluster::open("one", Some(&file), "ns").unwrap().context(), "one");
        let error =
            format!("{:#}", Cluster::open("three", Some(&file), "ns").map(|_| ()).unwrap_err());
        assert!(error.contains("three"), "{error}");
        let error = KubeContexts::read(Some(&folder.path().join("none"))).unwrap_err();
        assert!(format!("{error:#}").contains("none"), "{error:#}");
        std::fs::write(&file, "contexts: 3").unwrap();
        assert!(KubeContexts::read(Some(&file)).is_err());
    }
}
