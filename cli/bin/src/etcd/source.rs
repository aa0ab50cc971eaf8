//! Reads keys from a file or an etcd.

use std::{collections::BTreeMap, fs, path::PathBuf, time::SystemTime};

use anyhow::{Context as _, bail};
use mesh_certs::{Clock, CredentialFiles, Store};
use mesh_etcd::{Connection, EtcdError, LastAddresses, Target, connect};
use mesh_follow::KeyRange;
use mesh_lab::contexts::Context;
use mesh_offline::{EtcdContent, KeysFile};
use mesh_wire::peer_file::{HostAlias, PeerFile};

use super::pod::{self, EtcdRead};
use crate::{
    args::{SourceArgs, WithArgs},
    contexts,
    kube_exec::Cluster,
    rotate::within,
};

/// A source of keys.
pub(crate) enum Source {
    /// A keys file.
    File(PathBuf),
    /// The etcd of a cluster in Kubernetes, read in its apiserver's pod. Boxed, since it is large.
    Pod(Box<(Cluster, Context)>),
    /// An etcd.
    Etcd {
        /// `https://host:port`.
        endpoints: Vec<String>,
        host_aliases: Vec<HostAlias>,
        credentials: CredentialFiles,
        /// The network namespace from which it is reachable.
        netns: Option<String>,
    },
}

/// The peer file in a cluster directory that describes the local etcd.
const LOCAL: &str = "local.yaml";

/// The prefixes and keys of the mesh. Each is read by itself: no user may read the keys between them.
const TREES: [&str; 6] = [
    "cilium/.heartbeat",
    "cilium/cache/",
    "cilium/cluster-config/",
    "cilium/state/",
    "cilium/synced/",
    "clustermesh/",
];

// === impl Source ===

impl Source {
    pub(crate) fn new(args: &SourceArgs) -> anyhow::Result<Self> {
        let SourceArgs { context, keys, endpoints, cacert, cert, key } = args;
        Self::of(context, keys, endpoints, [cacert, cert, key])
    }

    pub(crate) fn of_other(args: &WithArgs) -> anyhow::Result<Self> {
        let WithArgs { with_context, with_keys, with_endpoints, .. } = args;
        let files = [&args.with_cacert, &args.with_cert, &args.with_key];
        Self::of(with_context, with_keys, with_endpoints, files)
    }

    fn of(
        context: &Option<String>,
        keys: &Option<PathBuf>,
        endpoints: &[String],
        files: [&Option<PathBuf>; 3],
    ) -> anyhow::Result<Self> {
        match (context, keys, files) {
            (Some(context), _, _) => Self::of_context(context),
            (None, Some(file), _) => Ok(Self::File(file.clone())),
            (None, None, [Some(ca), Some(certificate), Some(key)]) => Ok(Self::Etcd {
                endpoints: endpoints.to_vec(),
                host_aliases: Vec::new(),
                credentials: CredentialFiles {
                    ca: ca.clone(),
                    certificate: certificate.clone(),
                    key: key.clone(),
                },
                netns: None,
            }),
            _ => bail!(
                "name a source: --context, --keys, or --endpoints with --cacert, --cert and --key"
            ),
        }
    }

    fn of_context(name: &str) -> anyhow::Result<Self> {
        let context = contexts::find(name)?;
        if let Some(cluster) = contexts::cluster_of(&context)? {
            return Ok(Self::Pod(Box::new((cluster, context))));
        }
        let path = context.directory.join(LOCAL);
        let place = || path.display().to_string();
        let text = fs::read_to_string(&path).with_context(place)?;
        let file = PeerFile::parse(&text).with_context(place)?;
        let beside = |path: &Option<PathBuf>, key: &str| {
            let path = path.as_ref().with_context(|| format!("{}: no `{key}`", place()))?;
            anyhow::Ok(context.directory.join(path))
        };
        let credentials = CredentialFiles {
            ca: beside(&file.trusted_ca_file, "trusted-ca-file")?,
            certificate: beside(&file.cert_file, "cert-file")?,
            key: beside(&file.key_file, "key-file")?,
        };
        Ok(Self::Etcd {
            endpoints: file.endpoints,
            host_aliases: file.host_aliases,
            credentials,
            netns: context.netns,
        })
    }
}

/// Reads all keys of the mesh.
pub(crate) fn read(source: &Source) -> anyhow::Result<EtcdRead> {
    match source {
        Source::File(path) => {
            let file = KeysFile::read(path)?;
            let notes = file.lacks_config().into_iter().collect();
            Ok(EtcdRead { holding: EtcdContent::from(&file), notes })
        }
        Source::Pod(pod) => pod::read(&pod.0, &pod.1),
        Source::Etcd { endpoints, host_aliases, credentials, netns } => {
            let (_store, receiver) = Store::open(credentials.clone(), SystemTime::now())?;
            let target = Target {
                endpoints: endpoints.clone(),
                host_aliases: host_aliases.clone(),
                credentials: receiver,
                clock: Clock::system(),
                last_addresses: LastAddresses::default(),
            };
            within(netns.as_deref(), || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(read_etcd(&target))
            })?
        }
    }
}

async fn read_etcd(target: &Target) -> anyhow::Result<EtcdRead> {
    let connection = connect_any(target).await?;
    let mut notes = Vec::new();
    let mut entries = BTreeMap::new();
    for tree in TREES {
        match connection.list(&KeyRange::prefix(tree)).await {
            Ok((_, found)) => entries.extend(found.into_iter().map(|kv| (kv.key, kv.value))),
            Err(EtcdError::Denied(_)) => {
                let who = connection.credentials().subject().to_owned();
                notes.push(format!("{tree}: not shown: {who} may not read all of it"));
            }
            Err(error) => {
                return Err(error).with_context(|| format!("{}: {tree}", connection.endpoint()));
            }
        }
    }
    if notes.len() == TREES.len() {
        bail!(
            "{}: the user may read no keys of the mesh: {}",
            connection.endpoint(),
            notes.join("; ")
        );
    }
    let whole = notes.is_empty();
    Ok(EtcdRead {
        holding: EtcdContent { entries, cluster: None, whole, contradiction: None },
        notes,
    })
}

async fn connect_any(target: &Target) -> anyhow::Result<Connection> {
    let mut failures = Vec::new();
    for attempt in 0..target.endpoints.len() {
        match connect(target, attempt).await {
            Ok(connection) => return Ok(connection),
            Err(failure) => failures.push(failure.reason),
        }
    }
    bail!("no etcd answers: {}", failures.join("; "))
}
