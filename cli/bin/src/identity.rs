//! `clustermesh identity`: the identities that agents know, and who has an address.

mod address;

use std::net::IpAddr;

use anyhow::{Error, bail};
use mesh_admin::v1::{Identity, ListIdentitiesRequest, ListIdentitiesResponse};
use mesh_model::Labels;
use serde_json::{Value, json};

use crate::{
    args::{From, IdentityArgs, IdentityCommand},
    ask::{self, Unanswered, Which, unreachable},
    contexts,
    labels::{self, Selector},
    outcome::{Outcome, complain},
    output::{self, Listed, Output},
};

use address::SeenAddress;

/// An identity, and the cluster of the agent that reported it.
struct Seen {
    from: String,
    identity: Identity,
}

/// The identities that a user asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum IdentityQuery {
    Id(u32),
    Address(IpAddr),
    Labels(Selector),
}

pub(crate) fn run(args: &IdentityArgs, output: Output) -> anyhow::Result<Outcome> {
    let (kind, seen, warnings) = match &args.command {
        IdentityCommand::List { from, cluster, namespace, selector } => {
            let Answer { identities: mut seen, warnings, .. } =
                ask(from, request(cluster.as_deref()))?;
            if let (true, Some(cluster), []) = (seen.is_empty(), cluster, warnings.as_slice()) {
                bail!("no agent knows an identity of a cluster {cluster}");
            }
            if let Some(namespace) = namespace.only() {
                seen.retain(|seen| seen.namespace() == Some(namespace));
            }
            if let Some(selector) = selector {
                seen.retain(|seen| selector.selects(&seen.identity.labels));
            }
            ("IdentityList", seen, warnings)
        }
        IdentityCommand::Show { identity, from, cluster } => {
            let wanted = IdentityQuery::parse(identity).map_err(Error::msg)?;
            return show(identity, &wanted, from, cluster.as_deref(), output);
        }
    };
    output::list(output, kind, Some("identities"), &seen, json!({ "warnings": warnings }))?;
    Ok(complain(warnings))
}

/// `clustermesh identity show`.
fn show(
    identity: &str,
    wanted: &IdentityQuery,
    from: &From,
    cluster: Option<&str>,
    output: Output,
) -> anyhow::Result<Outcome> {
    let mut request = request(cluster);
    match wanted {
        IdentityQuery::Id(number) => request.number = *number,
        IdentityQuery::Address(address) => request.address = address.to_string(),
        IdentityQuery::Labels(_) => {}
    }
    let Answer { mut identities, addresses, mut warnings } = ask(from, request)?;
    if let IdentityQuery::Address(_) = wanted {
        // An earlier release answers with all identities.
        let answers = |of: &str| addresses.iter().any(|address| address.from == of);
        let older = identities.iter().map(|seen| &seen.from).filter(|of| !answers(of));
        let older: std::collections::BTreeSet<&String> = older.collect();
        warnings.extend(older.iter().map(|of| {
            format!(
                "{of}: its agent is of an earlier release, which does not tell who has an address"
            )
        }));
        let older: Vec<String> = older.into_iter().cloned().collect();
        identities.retain(|seen| !older.contains(&seen.from));
    }
    identities.retain(|seen| wanted.is(&seen.identity));
    if identities.is_empty() && addresses.is_empty() {
        complain(warnings);
        bail!("no agent that answers knows an identity {identity}");
    }
    if output == Output::Json || !identities.is_empty() {
        let shown: Vec<Value> = addresses.iter().map(SeenAddress::json).collect();
        let fields = json!({ "addresses": shown, "warnings": warnings });
        output::list(output, "Identity", Some("identities"), &identities, fields)?;
    }
    if output == Output::Text && !output::names_only() {
        addresses.iter().try_for_each(|address| output::line(address.sentence()))?;
    }
    Ok(complain(warnings))
}

/// What agents answer.
struct Answer {
    identities: Vec<Seen>,
    addresses: Vec<SeenAddress>,
    warnings: Vec<String>,
}

/// All identities of a cluster, or of all.
fn request(cluster: Option<&str>) -> ListIdentitiesRequest {
    let cluster = cluster.unwrap_or_default().into();
    ListIdentitiesRequest { cluster, ..ListIdentitiesRequest::default() }
}

/// Asks one agent of each cluster.
fn ask(from: &From, request: ListIdentitiesRequest) -> anyhow::Result<Answer> {
    let contexts = contexts::find_or_all(from.context.as_deref())?;
    let answers = ask::ask(&contexts, Which::One(from.node.as_deref()), async |socket| {
        let client = mesh_admin::connect(socket).await.map_err(unreachable)?;
        let mut client = client.max_decoding_message_size(contexts::MAX_ANSWER);
        let request = request.clone();
        let identities = client.list_identities(request).await.map_err(Unanswered::failed)?;
        Ok(vec![identities.into_inner()])
    })?;
    let (answers, warnings) = answers.split();
    let (mut identities, mut addresses) = (Vec::new(), Vec::new());
    for (from, answer) in answers {
        let ListIdentitiesResponse { identities: seen, addresses: claimed } = answer;
        identities.extend(seen.into_iter().map(|identity| Seen { from: from.clone(), identity }));
        addresses
            .extend(claimed.into_iter().map(|address| SeenAddress { from: from.clone(), address }));
    }
    Ok(Answer { identities, addresses, warnings })
}

// === impl IdentityQuery ===

impl IdentityQuery {
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            // 0 is no identity's.
            Ok(number) if number > 0 => Ok(Self::Id(number)),
            _ => match text.parse() {
                Ok(address) => Ok(Self::Address(address)),
                Err(_) => text.parse().map(Self::Labels),
            },
        }
    }

    fn is(&self, identity: &Identity) -> bool {
        match self {
            Self::Id(number) => identity.number == *number,
            // It is what the agent looked up.
            Self::Address(_) => true,
            Self::Labels(wanted) => wanted.selects(&identity.labels),
        }
    }
}

/// The key of the label with a pod's namespace.
const NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Prefixes of the keys of labels that Kubernetes and Cilium add.
const ADDED: [&str; 2] = ["io.kubernetes.pod.", "io.cilium.k8s."];

// === impl Seen ===

impl Listed for Seen {
    const HEADER: &'static [&'static str] =
        &["IN", "CLUSTER", "ID", "NAMESPACE", "ADDRESSES", "LABELS", "ALL LABELS"];
    const WIDE: usize = 1;

    fn name(&self) -> String {
        format!("{}/{}", self.identity.cluster, self.identity.number)
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let Identity { cluster, number, labels, addresses } = &self.identity;
        let all = labels.trim_end_matches(';').replace(';', " ");
        let own = Labels::parse(labels);
        // Labels that Kubernetes and Cilium add are shown in other columns, or with `-o wide`.
        let own =
            own.iter().filter(|(_, key, _)| !ADDED.iter().any(|added| key.starts_with(added)));
        let own: Vec<String> = own.map(|(_, key, value)| format!("{key}={value}")).collect();
        let namespace = self.namespace().unwrap_or_default().to_owned();
        let (number, addresses) = (number.to_string(), addresses.to_string());
        let (from, cluster) = (self.from.clone(), cluster.clone());
        vec![vec![from, cluster, number, namespace, addresses, own.join(" "), all]]
    }

    fn json(&self) -> Value {
        let Identity { cluster, number, labels, addresses } = &self.identity;
        let labels = labels::json(labels);
        json!({
            "in": self.from, "cluster": cluster, "id": number, "number": number, "labels": labels, "addresses": addresses,
            "namespace": self.namespace(),
        })
    }
}

impl Seen {
    /// The namespace of the identity's pods.
    fn namespace(&self) -> Option<&str> {
        let mut labels = self.identity.labels.split(';').filter_map(|label| label.split_once('='));
        let is = |key: &str| key.split_once(':').is_some_and(|(_, key)| key == NAMESPACE);
        labels.find(|(key, _)| is(key)).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples;

    #[test]
    fn identities_fit() {
        let labels = "k8s:app=web;k8s:tier=frontend;k8s:version=2026-11-30;k8s:team=checkout;\
                      k8s:io.cilium.k8s.policy.serviceaccount=default;\
                      k8s:io.kubernetes.pod.namespace=shop;";
        let identity =
            Identity { cluster: "a".into(), number: 70_000, labels: labels.into(), addresses: 1 };
        samples::list_fits(80, &[Seen { from: "b".into(), identity }]);
    }

    #[test]
    fn the_pods_own_labels_are_shown_and_all_of_them_wide() {
        let labels =
            "k8s:app=web;k8s:io.cilium.k8s.policy.cluster=a;k8s:io.kubernetes.pod.namespace=shop;";
        let identity =
            Identity { cluster: "a".into(), number: 70_000, labels: labels.into(), addresses: 1 };
        let seen = Seen { from: "b".into(), identity };
        assert_eq!(seen.namespace(), Some("shop"));
        let all =
            "k8s:app=web k8s:io.cilium.k8s.policy.cluster=a k8s:io.kubernetes.pod.namespace=shop";
        assert_eq!(seen.rows(), [["b", "a", "70000", "shop", "1", "app=web", all]]);
    }

    #[test]
    fn an_identity_is_asked_for_by_id_or_labels() {
        let labels = "k8s:app=web;k8s:io.kubernetes.pod.namespace=shop;";
        let identity =
            Identity { cluster: "a".into(), number: 70_000, labels: labels.into(), addresses: 1 };
        for (wanted, is) in
            [("70000", true), ("70001", false), ("app=web", true), ("app=db", false)]
        {
            assert_eq!(IdentityQuery::parse(wanted).unwrap().is(&identity), is, "{wanted}");
        }
        for text in ["10.9.0.1", "fd00::9"] {
            let address = IdentityQuery::Address(text.parse().unwrap());
            assert_eq!(IdentityQuery::parse(text), Ok(address));
        }
        assert!(IdentityQuery::parse("app in (web)").is_err());
    }
}
