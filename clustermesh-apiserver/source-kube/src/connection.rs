//! A connection to an API server, and the requests that are made of it.

use std::{
    io::{self, ErrorKind},
    path::PathBuf,
    time::Duration,
};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioExecutor};
use kube::{
    Client, Config,
    client::{Body, ConfigExt as _},
    config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tokio::time;
use tower::{BoxError, ServiceBuilder};

use crate::{failure::Failure, resource::Resource};

/// How an API server is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KubeconfigChoice {
    /// As a pod finds the API server of its cluster: by its service account, and two variables of its environment.
    InCluster,
    /// By a kubeconfig.
    File {
        /// The file; `None`: `$KUBECONFIG`, else `~/.kube/config`.
        path: Option<PathBuf>,
        /// The context; `None`: the file's current one.
        context: Option<String>,
    },
}

/// A client of an API server. Cheap to clone.
#[derive(Clone)]
pub struct Connection {
    client: Client,
}

/// Why there is no client. Whether the API server answers is not known then.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A pod without a service account, or no pod.
    #[error("the service account of the pod: {0}")]
    InCluster(#[from] InClusterError),
    /// A kubeconfig that cannot be used.
    #[error("the kubeconfig: {0}")]
    Kubeconfig(#[from] KubeconfigError),
    /// Its credentials cannot be used.
    #[error("the credentials for the API server: {0}")]
    Credentials(#[from] kube::Error),
}

/// A watch that is open.
pub(crate) struct WatchStream {
    body: Body,
    buffer: Vec<u8>,
}

/// How long a connection may take to be made, and data to be acknowledged before a connection is given up.
const CONNECT: Duration = Duration::from_secs(5);
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// How long a page may take. A loaded API server needs seconds for 500 pods.
const PAGE: Duration = Duration::from_secs(60);
/// How long a watch stays open, before an API server ends it. Other followers ask for other times.
const WATCH: Duration = Duration::from_secs(300);
/// A watch that said nothing for longer is taken for dead: there is a bookmark each minute, without guarantee.
const QUIET: Duration = Duration::from_secs(360);
/// The longest line of a watch. An object has 1.5 MB at most (the limit of a request to etcd), or 3 MiB in a request to the
/// API server.
const LINE: usize = 16 << 20;

// === impl Connection ===

impl Connection {
    /// A client, which has asked nothing yet.
    ///
    /// # Errors
    /// When there are no credentials, or none that can be used.
    pub async fn open(choice: &KubeconfigChoice) -> Result<Self, ConnectError> {
        let config = match choice {
            KubeconfigChoice::InCluster => Config::incluster()?,
            KubeconfigChoice::File { path, context } => {
                let kubeconfig = match path {
                    Some(path) => Kubeconfig::read_from(path)?,
                    None => Kubeconfig::read()?,
                };
                let options =
                    KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
                Config::from_custom_kubeconfig(kubeconfig, &options).await?
            }
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_keepalive(Some(UNACKNOWLEDGED));
        tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
        let tls = config.rustls_https_connector_with_connector(tcp)?;
        let service = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(config.auth_layer()?)
            .map_err(BoxError::from)
            .service(hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(tls));
        Ok(Self { client: Client::new(service, config.default_namespace) })
    }

    /// The namespace of the pod's service account, or of the kubeconfig's context.
    pub fn namespace(&self) -> &str {
        self.client.default_namespace()
    }

    /// A page of a list.
    pub(crate) async fn list(
        &self,
        resource: &impl Resource,
        limit: Option<u32>,
        next: Option<&str>,
    ) -> Result<String, Failure> {
        let mut query = Vec::new();
        query.extend(limit.map(|limit| format!("limit={limit}")));
        // A token is base64 for URLs.
        query.extend(next.map(|next| format!("continue={next}")));
        self.get(&with_query(resource.path(), &query.join("&")), PAGE).await
    }

    /// A watch.
    pub(crate) async fn watch(
        &self,
        resource: &impl Resource,
        after: u64,
    ) -> Result<WatchStream, Failure> {
        let query = format!(
            "watch=true&allowWatchBookmarks=true&resourceVersion={after}&timeoutSeconds={}",
            WATCH.as_secs()
        );
        let path = with_query(resource.path(), &query);
        let response = self.send(Method::GET, &path, "application/json", None);
        let response = within(CONNECT * 2, response).await?;
        match response.status() {
            StatusCode::OK => Ok(WatchStream { body: response.into_body(), buffer: Vec::new() }),
            status => Err(Failure::refused(status, text(response).await?)),
        }
    }

    /// What is at a path, as text.
    pub(crate) async fn get(&self, path: &str, patience: Duration) -> Result<String, Failure> {
        match self.ask(Method::GET, path, None, patience).await? {
            (StatusCode::OK, text) => Ok(text),
            (status, body) => Err(Failure::refused(status, body)),
        }
    }

    /// Any other request, with a JSON body. Returns the status and the text of the answer.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        patience: Duration,
    ) -> Result<(StatusCode, String), Failure> {
        let content = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        within(patience, async {
            let response = self.send(method, path, content, body).await?;
            Ok((response.status(), text(response).await?))
        })
        .await
    }

    /// Server-side apply. The path names the field manager.
    pub(crate) async fn apply(
        &self,
        path: &str,
        object: Vec<u8>,
        patience: Duration,
    ) -> Result<(StatusCode, String), Failure> {
        within(patience, async {
            // JSON is YAML.
            let content = "application/apply-patch+yaml";
            let response = self.send(Method::PATCH, path, content, Some(object)).await?;
            Ok((response.status(), text(response).await?))
        })
        .await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        content: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Response<Body>, Failure> {
        let request = Request::builder().method(method).uri(path);
        let request = request.header(http::header::ACCEPT, "application/json");
        let request = request.header(http::header::CONTENT_TYPE, content);
        let request = request.body(body.map_or_else(Body::empty, Body::from));
        let request = request.map_err(|error| Failure::Broken(error.to_string()))?;
        self.client.send(request).await.map_err(broken)
    }
}

// === impl WatchStream ===

impl WatchStream {
    /// The next line; `None` at the end.
    pub(crate) async fn line(&mut self) -> Result<Option<String>, Failure> {
        let mut searched = 0;
        loop {
            let found = self.buffer.iter().skip(searched).position(|byte| *byte == b'\n');
            if let Some(end) = found.map(|found| searched + found) {
                let rest = self.buffer.split_off(end + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                return match String::from_utf8(line) {
                    Ok(line) => Ok(Some(line)),
                    Err(_) => Err(Failure::Broken("a line that is no UTF-8".into())),
                };
            }
            searched = self.buffer.len();
            if searched > LINE {
                let reason = format!("a line of more than {LINE} bytes");
                return Err(Failure::Broken(reason));
            }
            let frame = async { Ok(self.body.frame().await) };
            match within(QUIET, frame).await? {
                None => return Ok(None),
                Some(Err(error)) => return Err(broken(error)),
                Some(Ok(frame)) => {
                    self.buffer.extend(frame.data_ref().into_iter().flatten());
                }
            }
        }
    }
}

/// A path that may have a query, with more of it.
fn with_query(path: &str, query: &str) -> String {
    let joint = if path.contains('?') { '&' } else { '?' };
    format!("{path}{joint}{query}")
}

async fn text(response: Response<Body>) -> Result<String, Failure> {
    let bytes = response.into_body().collect_bytes().await.map_err(broken)?;
    String::from_utf8(bytes.into())
        .map_err(|_| Failure::Broken("an answer that is no UTF-8".into()))
}

async fn within<T>(
    patience: Duration,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let late = |_| Failure::Broken(format!("no answer within {} s", patience.as_secs()));
    time::timeout(patience, work).await.map_err(late)?
}

/// An error in words: what happened to the connection, else those of its innermost cause.
fn broken(error: impl std::error::Error + 'static) -> Failure {
    let mut kind = None;
    let mut innermost: &(dyn std::error::Error + 'static) = &error;
    loop {
        kind = kind.or(innermost.downcast_ref::<io::Error>().map(io::Error::kind));
        match innermost.source() {
            Some(cause) => innermost = cause,
            None => break,
        }
    }
    Failure::Broken(match kind {
        Some(ErrorKind::ConnectionRefused) => "nothing listens at its address".into(),
        Some(
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof,
        ) => "it closed the connection".into(),
        Some(ErrorKind::TimedOut) => "it does not acknowledge what is sent".into(),
        _ => innermost.to_string(),
    })
}
