//! Identities, as agents know them.

use anyhow::bail;
use mesh_admin::v1::{Identity, ListIdentitiesRequest};
use mesh_model::{Label, Labels};
use serde_json::{Map, Value, json};

use crate::{
    args::{From, IdentityArgs, IdentityCommand},
    ask::{self, Unanswered, Which, unreachable},
    contexts,
    outcome::{Outcome, complain},
    output::{self, Listed, Output},
};

/// An identity, and whose agent says so.
struct Seen {
    from: String,
    identity: Identity,
}

/// What is asked for by what identifies it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum IdentityQuery {
    Id(u32),
    /// It has all of these. Without a source any source will do.
    Labels(Vec<Label>),
}

pub(crate) fn run(args: &IdentityArgs, output: Output) -> anyhow::Result<Outcome> {
    let (kind, seen, warnings) = match &args.command {
        IdentityCommand::List { from, cluster } => {
            let (seen, warnings) = ask(from, cluster.as_deref(), 0)?;
            if let (true, Some(cluster), []) = (seen.is_empty(), cluster, warnings.as_slice()) {
                bail!("no agent knows an identity of a cluster {cluster}");
            }
            ("IdentityList", seen, warnings)
        }
        IdentityCommand::Show { identity, from, cluster } => {
            let wanted = IdentityQuery::parse(identity);
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

/// Asks one node of each cluster.
fn ask(
    from: &From,
    cluster: Option<&str>,
    number: u32,
) -> anyhow::Result<(Vec<Seen>, Vec<String>)> {
    let contexts = contexts::find_or_all(from.context.as_deref())?;
    let answers = ask::ask(&contexts, Which::One(from.node.as_deref()), async |socket| {
        let request = ListIdentitiesRequest { cluster: cluster.unwrap_or_default().into(), number };
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
    fn parse(text: &str) -> Self {
        match text.parse() {
            // 0 is no identity's.
            Ok(number) if number > 0 => Self::Id(number),
            _ => Self::Labels(
                text.split([';', ',']).filter(|part| !part.is_empty()).map(Label::parse).collect(),
            ),
        }
    }

    fn is(&self, identity: &Identity) -> bool {
        match self {
            Self::Id(number) => identity.number == *number,
            Self::Labels(wanted) => {
                let labels = Labels::parse(&identity.labels);
                let has = |wanted: &Label| {
                    let any = wanted.source == UNSPECIFIED;
                    labels.iter().any(|(source, key, value)| {
                        key == wanted.key
                            && value == wanted.value
                            && (any || source == wanted.source)
                    })
                };
                wanted.iter().all(has)
            }
        }
    }
}

/// The source of a label that names none.
const UNSPECIFIED: &str = "unspec";

// === impl Seen ===

impl Listed for Seen {
    const HEADER: &'static [&'static str] = &["IN", "CLUSTER", "ID", "ADDRESSES", "LABELS"];

    fn name(&self) -> String {
        format!("{}/{}", self.identity.cluster, self.identity.number)
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let Identity { cluster, number, labels, addresses } = &self.identity;
        let labels = labels.trim_end_matches(';').replace(';', " ");
        let (number, addresses) = (number.to_string(), addresses.to_string());
        vec![vec![self.from.clone(), cluster.clone(), number, addresses, labels]]
    }

    fn json(&self) -> Value {
        let Identity { cluster, number, labels, addresses } = &self.identity;
        let labels = Labels::parse(labels);
        let labels: Map<String, Value> = labels
            .iter()
            .map(|(source, key, value)| (format!("{source}:{key}"), value.into()))
            .collect();
        json!({
            "in": self.from, "cluster": cluster, "number": number, "labels": labels, "addresses": addresses,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_asked_for_by_id_or_labels() {
        let labels = "k8s:app=web;k8s:io.kubernetes.pod.namespace=shop;";
        let identity =
            Identity { cluster: "a".into(), number: 70_000, labels: labels.into(), addresses: 1 };
        for (wanted, is) in [
            ("70000", true),
            ("70001", false),
            ("app=web", true),
            ("k8s:app=web", true),
            ("any:app=web", false),
            ("app=db", false),
            ("app=web,io.kubernetes.pod.namespace=shop", true),
            ("k8s:app=web;k8s:io.kubernetes.pod.namespace=other;", false),
        ] {
            assert_eq!(IdentityQuery::parse(wanted).is(&identity), is, "{wanted}");
        }
    }
}
