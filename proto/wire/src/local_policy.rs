//! Policies for the local cluster's nodes, `clustermesh/local/v1/policies/<kind>/[<namespace>/]<name>`.

use std::{fmt, sync::Arc};

use mesh_model::{LocalPolicy, PolicyRef, Record, RecordKey, Refusal, RefusalClass};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    check::expect,
    error::DecodeError,
    go_json::{self, go_struct},
    key::{Key, POLICIES},
    limits,
    local::{VERSION, known},
};

go_struct! {
    /// The JSON of a policy. The object is as its cluster has it, without what decides nothing.
    struct PolicyJson {
        "v" => v: u32;
        "object" => object: Option<Box<RawValue>>;
        "refused" => refused: Vec<RefusalJson>, omit;
    }
}

go_struct! {
    /// One field that is refused.
    struct RefusalJson {
        "class" => class: String;
        "field" => field: String;
        "reason" => reason: String;
    }
}

/// What names an object.
#[derive(Deserialize)]
struct Header {
    kind: String,
    metadata: Name,
}

#[derive(Deserialize)]
struct Name {
    name: String,
    #[serde(default)]
    namespace: String,
}

pub(crate) fn encode(policy: &LocalPolicy) -> Vec<u8> {
    let LocalPolicy { reference: _, json, refused } = policy;
    let refused = refused.iter().map(|Refusal { class, field, reason }| RefusalJson {
        class: class.as_str().into(),
        field: field.clone(),
        reason: reason.clone(),
    });
    // Not JSON: readers reject the record, as they would any other text.
    let object = RawValue::from_string(json.to_string()).ok();
    go_json::to_vec(&PolicyJson { v: VERSION, object, refused: refused.collect() })
}

/// Decodes a key and its value, if they are those of a valid policy.
pub fn decode_policy(key: &str, value: &[u8]) -> Option<LocalPolicy> {
    let key = key.starts_with(POLICIES).then(|| Key::parse(key.as_bytes()).ok())??;
    match key {
        Key::Record { record: RecordKey::Policy(policy), .. } => {
            match decode(&policy, value).ok()? {
                Record::Policy(policy) => Some(*policy),
                _ => None,
            }
        }
        _ => None,
    }
}

pub(crate) fn decode(policy: &PolicyRef, value: &[u8]) -> Result<Record, DecodeError> {
    let PolicyJson { v, object, refused } = serde_json::from_slice(value)?;
    known(v)?;
    let object = object.ok_or(DecodeError::Missing { field: "object" })?;
    limits::POLICY.check(object.get().len())?;
    let Header { kind, metadata } = serde_json::from_str(object.get())?;
    expect("kind", kind.as_str(), policy.kind.as_str())?;
    expect("namespace", metadata.namespace.as_str(), &policy.namespace)?;
    expect("name", metadata.name.as_str(), &policy.name)?;
    limits::REFUSALS.check(refused.len())?;
    let refused = refused.into_iter().map(refusal).collect::<Result<_, _>>()?;
    let json = Arc::from(object.get());
    Ok(Record::Policy(Box::new(LocalPolicy { reference: policy.clone(), json, refused })))
}

fn refusal(json: RefusalJson) -> Result<Refusal, DecodeError> {
    let RefusalJson { class, field, reason } = json;
    limits::WORD.text(&class)?;
    limits::REFUSAL.texts([&field, &reason])?;
    // A later version may have further classes: what they have in common is that the object is not in force.
    let class = RefusalClass::of_word(&class).unwrap_or(RefusalClass::Unsupported);
    Ok(Refusal { field, reason, class })
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, metadata: Name { name, namespace } } = self;
        write!(f, "{kind} {namespace}/{name}")
    }
}

#[cfg(test)]
mod tests {
    use mesh_model::PolicyKind;

    use super::*;
    use crate::{
        local::tests::alpha,
        peer::Role,
        record::{decode, encode},
    };

    const KEY: &str = "clustermesh/local/v1/policies/netpol/shop/deny";
    const OBJECT: &str = r#"{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"deny","namespace":"shop"},"spec":{"podSelector":{}}}"#;

    fn reference(kind: PolicyKind, namespace: &str) -> PolicyRef {
        PolicyRef { kind, namespace: namespace.into(), name: "deny".into() }
    }

    #[test]
    fn policies_have_this_json() {
        let reference = reference(PolicyKind::NetworkPolicy, "shop");
        let in_force = LocalPolicy { reference, json: OBJECT.into(), refused: Vec::new() };
        let refusal = Refusal {
            field: "spec.podSelector".into(),
            reason: "it is a <list>".into(),
            class: RefusalClass::Malformed,
        };
        let refused = LocalPolicy { refused: vec![refusal], ..in_force.clone() };
        let tail = r#","refused":[{"class":"malformed","field":"spec.podSelector","reason":"it is a \u003clist\u003e"}]"#;
        for (policy, tail) in [(in_force, ""), (refused, tail)] {
            let record = Record::Policy(Box::new(policy));
            let json = format!(r#"{{"v":1,"object":{OBJECT}{tail}}}"#);
            assert_eq!(String::from_utf8(encode(&record)).unwrap(), json);
            let found = decode(&alpha(Role::Local), KEY.as_bytes(), json.as_bytes()).unwrap();
            assert_eq!(found, Some(record));
        }
    }

    #[test]
    fn one_of_the_whole_cluster_has_no_namespace() {
        let key = b"clustermesh/local/v1/policies/ccnp/deny";
        let json = r#"{"kind":"CiliumClusterwideNetworkPolicy","metadata":{"name":"deny"}}"#;
        let value = format!(r#"{{"v":1,"object":{json}}}"#);
        let found = decode(&alpha(Role::Local), key, value.as_bytes()).unwrap();
        let reference = reference(PolicyKind::CiliumClusterwideNetworkPolicy, "");
        let policy = LocalPolicy { reference, json: json.into(), refused: Vec::new() };
        assert_eq!(found, Some(Record::Policy(Box::new(policy))));
    }

    #[test]
    fn an_unknown_class_is_refused_all_the_same() {
        let value = format!(
            r#"{{"v":1,"object":{OBJECT},"refused":[{{"class":"new","field":"spec","reason":"x"}}]}}"#
        );
        let found = decode(&alpha(Role::Local), KEY.as_bytes(), value.as_bytes()).unwrap();
        let Some(Record::Policy(policy)) = found else { panic!("{found:?}") };
        assert_eq!(policy.refused[0].class, RefusalClass::Unsupported);
    }

    #[test]
    fn contradicting_or_invalid_policies_are_refused() {
        let long = "x".repeat(5_000);
        let large = format!("\"{}\"", "x".repeat(1_100_000));
        let refusals = vec![r#"{"class":"limit"}"#; 17].join(",");
        let value = |rest: &str| format!(r#"{{"v":1,"object":{OBJECT}{rest}}}"#);
        let with = |from: &str, to: &str| value("").replacen(from, to, 1);
        for (value, says) in [
            (with("\"v\":1", "\"v\":2"), "version 2 is not known"),
            (r#"{"v":1}"#.to_owned(), "object: it is missing"),
            (with("NetworkPolicy", "CiliumNetworkPolicy"), "kind is CiliumNetworkPolicy"),
            (with("deny", "allow"), "name is allow, expected deny"),
            (with("shop", "shed"), "namespace is shed, expected shop"),
            (with("{\"podSelector\":{}}", &large), "bytes in a policy: more than 1048576"),
            (with("\"metadata\"", "\"m\""), "JSON: missing field `metadata`"),
            (value(",\"refused\":1"), "JSON: refused"),
            (value(&format!(",\"refused\":[{refusals}]")), "refusals of a policy: more than 16"),
            (
                value(&format!(",\"refused\":[{{\"reason\":\"{long}\"}}]")),
                "bytes in a refusal: more than 4096",
            ),
            (value("}"), "JSON: trailing characters"),
        ] {
            let error = decode(&alpha(Role::Local), KEY.as_bytes(), value.as_bytes());
            let error = error.unwrap_err().to_string();
            assert!(error.contains(says), "{says}: {error}");
        }
        let error = decode(&alpha(Role::Remote), KEY.as_bytes(), value("").as_bytes());
        let error = error.unwrap_err().to_string();
        assert!(error.contains("only for the local cluster's nodes"), "{error}");
    }
}
