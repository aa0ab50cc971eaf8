//! Reads the etcd of a mesh in Kubernetes: this program runs in the apiserver's pod, and prints the keys as they are.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use mesh_lab::contexts::Context;
use mesh_offline::EtcdContent;
use serde::{Deserialize, Serialize};

use crate::{
    ask,
    kube_exec::{Cluster, Component},
};

/// The keys of a source.
#[derive(Debug)]
pub(crate) struct EtcdRead {
    pub(crate) holding: EtcdContent,
    /// Notes about them, for the user.
    pub(crate) notes: Vec<String>,
}

/// The output of `etcd keys`.
#[derive(Debug, Serialize, Deserialize)]
struct Printed {
    /// Keys and values in base64.
    entries: Vec<(String, String)>,
    notes: Vec<String>,
    /// Whether all keys of the mesh are there.
    whole: bool,
}

/// How long a million keys may take.
const LIMIT: Duration = Duration::from_secs(300);

/// The output of `etcd keys`.
pub(super) fn text(EtcdRead { holding, notes }: &EtcdRead) -> anyhow::Result<String> {
    let encoded = |(key, value): (&Vec<u8>, &Vec<u8>)| {
        (BASE64_STANDARD.encode(key), BASE64_STANDARD.encode(value))
    };
    let entries = holding.entries.iter().map(encoded).collect();
    let printed = Printed { entries, notes: notes.clone(), whole: holding.whole };
    Ok(serde_json::to_string(&printed)?)
}

/// The keys that `etcd keys` printed.
fn parse(text: &[u8]) -> anyhow::Result<EtcdRead> {
    let Printed { entries, notes, whole } =
        serde_json::from_slice(text).context("the output of `etcd keys` in the pod")?;
    let decoded = |(key, value): (String, String)| {
        anyhow::Ok((BASE64_STANDARD.decode(key)?, BASE64_STANDARD.decode(value)?))
    };
    let entries: BTreeMap<_, _> =
        entries.into_iter().map(decoded).collect::<anyhow::Result<_>>()?;
    Ok(EtcdRead {
        holding: EtcdContent { entries, cluster: None, whole, contradiction: None },
        notes,
    })
}

/// Reads the etcd of the first apiserver, with its credentials.
pub(super) fn read(cluster: &Cluster, context: &Context) -> anyhow::Result<EtcdRead> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let status = runtime.block_on(ask::status(&context.apiserver));
    let status =
        status.map_err(|why| anyhow::anyhow!("the apiserver of {} {why}", context.name))?;
    let endpoint = status.store.unwrap_or_default().endpoint;
    let flags = status.configuration.get("effective").map(String::as_str).unwrap_or_default();
    let pki = format!("{}/pki", directory(flags));
    let [ca, certificate, key] =
        ["ca.crt", "admin.crt", "admin.key"].map(|file| format!("{pki}/{file}"));
    let command = [
        "clustermesh",
        "etcd",
        "keys",
        "--endpoints",
        &endpoint,
        "--cacert",
        &ca,
        "--cert",
        &certificate,
        "--key",
        &key,
    ];
    let pod = cluster.usable(Component::Apiserver)?;
    parse(&cluster.exec(&pod, &command, &[], LIMIT)?)
}

/// The cluster directory among a daemon's flags.
fn directory(flags: &str) -> &str {
    let flag = flags.split(' ').find_map(|flag| flag.strip_prefix("--config-dir="));
    flag.unwrap_or("/etc/clustermesh")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_keys_are_read_as_they_were() {
        let entries = BTreeMap::from([(b"a/\xff".to_vec(), vec![0, 255]), (b"b".to_vec(), vec![])]);
        let holding = EtcdContent { entries, cluster: None, whole: true, contradiction: None };
        let read = EtcdRead { holding, notes: vec!["one is missing".into()] };
        let again = parse(text(&read).unwrap().as_bytes()).unwrap();
        assert_eq!(again.holding.entries, read.holding.entries);
        assert_eq!((again.holding.whole, again.notes), (true, read.notes));
        for bad in ["", "{}", r#"{"entries":[["?","?"]],"notes":[],"whole":true}"#] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_directory_is_the_flag_in_force() {
        assert_eq!(directory("--source=kubernetes --config-dir=/x --a=b"), "/x");
        assert_eq!(directory("--source=kubernetes"), "/etc/clustermesh");
    }
}
