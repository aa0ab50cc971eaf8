//! Connections to the admin APIs of daemons in pods: a command there copies its standard input and output to and from the
//! daemon's socket.

use std::io;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use mesh_admin::GREETING;
use tokio::{
    io::{
        AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, copy, duplex,
        split,
    },
    time::timeout,
};

use super::{BUFFER, Cluster, Component, MeshPod, START};

/// The streams of the command.
struct Streams<I, O, E> {
    input: I,
    output: O,
    errors: E,
}

impl Cluster {
    /// A connection to the daemon in a pod.
    ///
    /// # Errors
    /// In full: why the command cannot run in the pod, or what it said.
    pub(crate) async fn connect(&self, pod: &MeshPod) -> anyhow::Result<DuplexStream> {
        let command = vec![pod.component.name().to_owned(), "admin-proxy".to_owned()];
        if let Some(why) = &pod.unusable {
            anyhow::bail!("{}: {}: {why}", self.context, pod.name);
        }
        let container = (pod.name.as_str(), pod.component.container());
        let mut running = self.start(container, command).await?;
        let process = &mut running.process;
        let (Some(input), Some(output), Some(errors), Some(status)) =
            (process.stdin(), process.stdout(), process.stderr(), process.take_status())
        else {
            anyhow::bail!("the command has no streams")
        };
        let streams = Streams { input, output, errors };
        let connected = connected(streams, Box::pin(status), running).await;
        connected.map_err(|why| anyhow::anyhow!("{}: {}: {why}", self.context, pod.name))
    }
}

/// Waits for the command's greeting, and copies from then on. `running` is kept until the end of either side.
async fn connected<I, O, E>(
    mut streams: Streams<I, O, E>,
    mut status: impl Future<Output = Option<Status>> + Send + Unpin + 'static,
    running: impl Send + 'static,
) -> Result<DuplexStream, String>
where
    I: AsyncWrite + Send + Unpin + 'static,
    O: AsyncRead + Send + Unpin + 'static,
    E: AsyncRead + Send + Unpin + 'static,
{
    let mut greeting = [0; GREETING.len()];
    let greeted = timeout(START, async {
        tokio::select! {
            biased;
            read = streams.output.read_exact(&mut greeting) => read.is_ok(),
            _ = &mut status => false,
        }
    });
    match greeted.await {
        Err(_) => return Err(format!("no answer within {START:?}")),
        Ok(true) if greeting == GREETING => {}
        Ok(_) => return Err(said(streams.errors).await),
    }
    let (ours, theirs) = duplex(BUFFER);
    tokio::spawn(async move {
        let _running = running;
        let (mut requests, mut answers) = split(theirs);
        tokio::select! {
            _ = copy(&mut requests, &mut streams.input) => {
                // The client has gone.
                let _ = streams.input.shutdown().await;
            }
            _ = copy(&mut streams.output, &mut answers) => {}
            // The output of a command that ended is copied to its end; without a status the connection broke.
            () = async { if status.await.is_some() { std::future::pending().await } } => {}
        }
    });
    Ok(ours)
}

/// What a command wrote that did not do what it should, as a sentence.
async fn said(mut errors: impl AsyncRead + Unpin) -> String {
    let mut text = Vec::new();
    let limit = std::time::Duration::from_secs(1);
    let _ = timeout(limit, errors.read_to_end(&mut text)).await;
    let text = String::from_utf8_lossy(&text);
    match super::said(&text).lines().next() {
        Some(line) if line.contains("unrecognized subcommand") => {
            "the daemon's release has no admin-proxy: install this release".into()
        }
        Some(line) => line.to_owned(),
        None => "the command ended without a word".into(),
    }
}

/// The daemon of a context, whose pod may be another one when it is asked again.
#[derive(Clone)]
pub(crate) struct Remote {
    pub(crate) cluster: Cluster,
    pub(crate) component: Component,
    pub(crate) place: Place,
    /// The pod that it was found in; `None` if there was none.
    pub(crate) pod: Option<MeshPod>,
}

/// How the pod of a daemon is found again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The pod of a node.
    Node(String),
    /// The pod of this index, in the order of [`Cluster::pods`].
    Index(usize),
}

impl Remote {
    /// Opens a connection. If the pod has gone since it was found, or could not be used then, the one that has its place is
    /// asked.
    ///
    /// # Errors
    /// In full.
    pub(crate) async fn open(self) -> io::Result<DuplexStream> {
        let failed = match &self.pod {
            Some(pod) => match self.cluster.connect(pod).await {
                Ok(stream) => return Ok(stream),
                Err(error) => Some(error),
            },
            None => None,
        };
        let in_words = |error: anyhow::Error| io::Error::other(format!("{error:#}"));
        let pods = self.cluster.list(self.component).await.map_err(in_words)?;
        let found = self.place.of(&pods).cloned();
        match (found, failed) {
            // The same pod was tried.
            (Some(found), Some(error)) if Some(&found) == self.pod.as_ref() => Err(in_words(error)),
            (Some(found), _) => self.cluster.connect(&found).await.map_err(in_words),
            (None, _) => Err(io::Error::other(self.missing())),
        }
    }

    fn missing(&self) -> String {
        let (context, namespace) = (self.cluster.context(), self.cluster.namespace());
        let on = match &self.place {
            Place::Node(node) => format!(" on node {node}"),
            Place::Index(_) => String::new(),
        };
        format!("{context}: the namespace {namespace} has no pod of {}{on}", self.component.name())
    }
}

impl Place {
    fn of<'a>(&self, pods: &'a [MeshPod]) -> Option<&'a MeshPod> {
        match self {
            Self::Node(node) => pods.iter().find(|pod| pod.node == *node),
            Self::Index(index) => pods.get(*index),
        }
    }
}

/// Opens connections on the runtime of all API servers, for clients on any runtime.
pub(crate) fn opening(remote: Remote) -> mesh_admin::Opening {
    Box::pin(async move {
        let runtime = super::runtime().map_err(io::Error::other)?;
        let opened = runtime.spawn(remote.open()).await.map_err(io::Error::other)??;
        Ok(Box::new(opened) as Box<dyn mesh_admin::Stream>)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::oneshot;

    use super::*;

    /// A command with these streams, and the other ends of its input and output.
    fn command(
        errors: &'static str,
    ) -> (Streams<DuplexStream, DuplexStream, &'static [u8]>, [DuplexStream; 2]) {
        let (input, requests) = duplex(64);
        let (output, answers) = duplex(64);
        (Streams { input, output, errors: errors.as_bytes() }, [requests, answers])
    }

    fn ended(
        status: oneshot::Receiver<Status>,
    ) -> impl Future<Output = Option<Status>> + Send + Unpin {
        Box::pin(async { status.await.ok() })
    }

    #[tokio::test]
    async fn a_greeted_connection_carries_bytes_until_either_side_ends() {
        for client_ends in [true, false] {
            let (streams, [mut requests, mut answers]) = command("");
            let (_status, status) = oneshot::channel();
            let running = Arc::new(());
            answers.write_all(GREETING).await.unwrap();
            let mut client = connected(streams, ended(status), running.clone()).await.unwrap();
            client.write_all(b"ask").await.unwrap();
            let mut asked = [0; 3];
            requests.read_exact(&mut asked).await.unwrap();
            answers.write_all(b"answer").await.unwrap();
            let mut answer = [0; 6];
            client.read_exact(&mut answer).await.unwrap();
            assert_eq!((&asked, &answer), (b"ask", b"answer"));
            if client_ends {
                drop(client);
            } else {
                answers.shutdown().await.unwrap();
                assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
            }
            // The command's input ends, and nothing is kept of it.
            assert_eq!(requests.read(&mut [0]).await.unwrap(), 0);
            assert_eq!(Arc::strong_count(&running), 1);
        }
    }

    #[tokio::test]
    async fn a_connection_that_breaks_ends_the_answer() {
        let (streams, [_requests, mut answers]) = command("");
        let (status, ending) = oneshot::channel();
        answers.write_all(GREETING).await.unwrap();
        let mut client = connected(streams, ended(ending), ()).await.unwrap();
        drop(status);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_command_that_fails_says_why() {
        for (errors, says) in [
            (
                "error: /run/x.sock: there is no such socket: the daemon does not run\n",
                "/run/x.sock: there is no such socket: the daemon does not run",
            ),
            ("error: unrecognized subcommand 'admin-proxy'\n\nUsage: x\n", "install this release"),
            ("", "the command ended without a word"),
        ] {
            let (streams, [_requests, answers]) = command(errors);
            let (_status, status) = oneshot::channel();
            drop(answers);
            let error = connected(streams, ended(status), ()).await.err().unwrap();
            assert!(error.contains(says), "{error}");
        }
        // The API server could not start it.
        let (streams, _ends) = command("");
        let (status, ending) = oneshot::channel();
        drop(status);
        assert!(connected(streams, ended(ending), ()).await.is_err());
    }
}
