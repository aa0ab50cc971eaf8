//! `clustermesh identity`: the identities that agents know.

use std::net::IpAddr;

use anyhow::{Error, bail};
use mesh_admin::v1::{AddressClaim, Identity, ListIdentitiesRequest, ListIdentitiesResponse};
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

/// An identity, and the cluster of the agent that reported it.
struct Seen {
    from: String,
    identity: Identity,
}

/// A report of an address, and the cluster of the agent that knows it.
struct SeenClaim {
    from: String,
    address: IpAddr,
    claim: AddressClaim,
}

/// The identities that a user asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum IdentityQuery {
    Address(IpAddr),
    Id(u32),
    Labels(Selector),
}

pub(crate) fn run(args: &IdentityArgs, output: Output) -> anyhow::Result<Outcome> {
    let (kind, seen, warnings) = match &args.command {
        IdentityCommand::List { from, cluster, namespace, selector } => {
            let (mut seen, warnings) = ask(from, cluster.as_deref(), 0)?;
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
            if let IdentityQuery::Address(address) = wanted {
                return claims(from, address, output);
            }
            let number = if let IdentityQuery::Id(number) = wanted { number } else { 0 };
            let (mut seen, warnings) = ask(from, cluster.as_deref(), number)?;
            seen.retain(|seen| wanted.is(&seen.identity));
            if seen.is_empty() {
                complain(warnings);
                bail!("no agent that answers knows an identity {identity}");
            }
            ("Identity", seen, warnings)
        }
    };
    output::list(output, kind, Some("identities"), &seen, json!({ "warnings": warnings }))?;
    Ok(complain(warnings))
}

/// Who reports an address, as one agent of each cluster knows it.
fn claims(from: &From, address: IpAddr, output: Output) -> anyhow::Result<Outcome> {
    let contexts = contexts::find_or_all(from.context.as_deref())?;
    let answers = ask::ask(&contexts, Which::One(from.node.as_deref()), async |socket| {
        let address = address.to_string();
        let request = ListIdentitiesRequest { address, ..ListIdentitiesRequest::default() };
        let mut client = mesh_admin::connect(socket).await.map_err(unreachable)?;
        let answer = client.list_identities(request).await.map_err(Unanswered::failed)?;
        let ListIdentitiesResponse { claims, unknown_of, .. } = answer.into_inner();
        Ok(vec![(claims, unknown_of)])
    })?;
    let (answers, mut warnings) = answers.split();
    let mut seen = Vec::new();
    for (from, (claims, unknown_of)) in answers {
        match (claims.is_empty(), unknown_of.as_str()) {
            (_, "") if claims.is_empty() => warnings.push(format!(
                "{from}: {address} is no pod's or node's of the mesh, as far as its agent knows"
            )),
            (_, "") => {}
            (_, cluster) => warnings.push(format!(
                "{from}: {address} is unknown of cluster {cluster}: policies do not take it for the world, and no label selects it"
            )),
        }
        let of = |claim| SeenClaim { from: from.clone(), address, claim };
        seen.extend(claims.into_iter().map(of));
    }
    output::list(output, "AddressClaimList", None, &seen, json!({ "warnings": warnings }))?;
    Ok(complain(warnings))
}

/// Asks one agent of each cluster.
fn ask(
    from: &From,
    cluster: Option<&str>,
    number: u32,
) -> anyhow::Result<(Vec<Seen>, Vec<String>)> {
    let contexts = contexts::find_or_all(from.context.as_deref())?;
    let answers = ask::ask(&contexts, Which::One(from.node.as_deref()), async |socket| {
        let cluster = cluster.unwrap_or_default().into();
        let request = ListIdentitiesRequest { cluster, number, address: String::new() };
        let client = mesh_admin::connect(socket).await.map_err(unreachable)?;
        let mut client = client.max_decoding_message_size(contexts::MAX_ANSWER);
        let identities = client.list_identities(request).await.map_err(Unanswered::failed)?;
        Ok(identities.into_inner().identities)
    })?;
    let (answers, warnings) = answers.split();
    let of = |(from, identity)| Seen { from, identity };
    Ok((answers.map(of).collect(), warnings))
}

// === impl IdentityQuery ===

impl IdentityQuery {
    fn parse(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        match text.parse() {
            // 0 is no identity's.
            Ok(number) if number > 0 => Ok(Self::Id(number)),
            _ => text.parse().map(Self::Labels),
        }
    }

    fn is(&self, identity: &Identity) -> bool {
        match self {
            // It has no identity of its own: who reports it is listed.
            Self::Address(_) => false,
            Self::Id(number) => identity.number == *number,
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

impl Listed for SeenClaim {
    const HEADER: &'static [&'static str] = &["IN", "ADDRESS", "CLUSTER", "HAS IT", "ID", "LABELS"];

    fn name(&self) -> String {
        format!("{}/{}", self.claim.cluster, self.address)
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let AddressClaim { cluster, number, labels, has_it } = &self.claim;
        let has_it = if *has_it { "yes" } else { "no" };
        let labels = labels.trim_end_matches(';').replace(';', " ");
        let address = self.address.to_string();
        vec![vec![
            self.from.clone(),
            address,
            cluster.clone(),
            has_it.into(),
            number.to_string(),
            labels,
        ]]
    }

    fn json(&self) -> Value {
        let AddressClaim { cluster, number, labels, has_it } = &self.claim;
        json!({
            "in": self.from, "address": self.address, "cluster": cluster, "hasIt": has_it, "id": number,
            "labels": labels::json(labels),
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
    fn claims_fit() {
        let labels = "k8s:app=web;k8s:io.kubernetes.pod.namespace=shop;".to_owned();
        let claim = AddressClaim { cluster: "b".into(), number: 131_500, labels, has_it: true };
        let address = "fd00:10:2:1::17".parse().unwrap();
        samples::list_fits(100, &[SeenClaim { from: "a".into(), address, claim }]);
        assert_eq!(
            IdentityQuery::parse("10.2.0.5"),
            Ok(IdentityQuery::Address([10, 2, 0, 5].into()))
        );
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
        assert!(IdentityQuery::parse("app in (web)").is_err());
    }
}
