//! What `clustermesh-apiserver ca` tells `clustermesh certs rotate`: JSON on standard output. Fields are only ever added, and
//! those that are missing have defaults. No private key is in it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The CA of a cluster in Kubernetes, and what one pod of its apiserver has of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CaState {
    /// The certificates of the CA in the Secret, PEM; two while it is rotated, the new one last.
    pub trusted: String,
    /// The certificate of the CA that signs, PEM; empty if that CA has expired.
    pub signer: String,
    /// The certificates of the CA that the pod's files have, PEM.
    pub in_pod: String,
    /// The certificates of the cluster's daemons by their names, PEM: `server` and `admin` of this pod, `local` of all agents.
    pub certificates: BTreeMap<String, String>,
    /// The subjects of the CAs whose clients the pod's etcd accepts.
    pub etcd: Vec<String>,
    /// Why the etcd could not be asked.
    pub etcd_error: Option<String>,
}
