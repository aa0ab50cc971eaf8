use mesh_model::{LocalPolicy, PolicyKind, PolicyRef, Refusal, RefusalClass};
use proptest::prelude::*;

use super::*;

fn network_policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
    )
}

fn json(name: &str, spec: &str) -> String {
    format!(
        r#"{{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{{"name":"{name}","namespace":"shop"}},"spec":{spec}}}"#
    )
}

fn in_force(name: &str, spec: &str) -> String {
    format!(r#"netpol/shop/{name} {{"v":1,"object":{}}}"#, json(name, spec))
}

/// The reasons of what is refused.
fn refused(cluster: &mut Cluster) -> Vec<String> {
    let all = cluster.exporter.refused_policies().iter();
    all.map(|(key, refused)| format!("{key}: {refused}")).collect()
}

const MALFORMED: &str = "{podSelector: [a]}";

#[test]
fn policies_of_all_kinds_are_exported_for_the_local_nodes_only() {
    let mut cluster = Cluster::new();
    let changed = cluster.apply(&network_policy("deny", "{podSelector: {}}"));
    assert_eq!(changed, Vec::<String>::new(), "nothing for other clusters");
    let cilium = "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: deny, namespace: shop}
spec: {endpointSelector: {}, ingress: [{}]}
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: deny}
specs: [{endpointSelector: {}, egress: [{}]}]
";
    cluster.apply(cilium);
    let wanted = [
        r#"ccnp/deny {"v":1,"object":{"apiVersion":"cilium.io/v2","kind":"CiliumClusterwideNetworkPolicy","metadata":{"name":"deny"},"specs":[{"egress":[{}],"endpointSelector":{}}]}}"#.to_owned(),
        r#"cnp/shop/deny {"v":1,"object":{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":{"name":"deny","namespace":"shop"},"spec":{"endpointSelector":{},"ingress":[{}]}}}"#.to_owned(),
        in_force("deny", r#"{"podSelector":{}}"#),
    ];
    assert_eq!(cluster.local("policies"), wanted);
    assert_eq!(refused(&mut cluster), Vec::<String>::new());
    assert!(PolicyKind::ALL.iter().all(|kind| cluster.exporter.policy_counts()[kind] == 1));

    cluster.delete(Kind::NetworkPolicy, "shop", "deny");
    cluster.delete(Kind::CiliumNetworkPolicy, "shop", "deny");
    cluster.delete(Kind::CiliumClusterwideNetworkPolicy, "", "deny");
    assert_eq!(cluster.local("policies"), Vec::<String>::new());
    assert!(cluster.exporter.policy_counts().values().all(|count| *count == 0));
}

/// They are for the cluster's own nodes, and a policy that waits would allow what it denies.
#[test]
fn policies_wait_for_no_namespace() {
    let mut cluster = Cluster::new();
    cluster.exporter.listed.clear();
    let apart = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, annotations: {clustermesh.cilium.io/global: 'false'}}\n---\n";
    cluster.apply(&[apart, &network_policy("deny", "{podSelector: {}}")].concat());
    let wanted = [in_force("deny", r#"{"podSelector":{}}"#)];
    assert_eq!(cluster.local("policies"), wanted);
    cluster.listed(Kind::Namespace);
    assert_eq!(cluster.local("policies"), wanted);
}

#[test]
fn what_is_refused_is_exported_with_its_reasons() {
    let mut cluster = Cluster::new();
    let policy = "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop, uid: u1}
spec:
  endpointSelector: {matchLabels: {k8s:pod-template-hash: x}}
  egress: [{toFQDNs: [{matchName: example.com}]}]
";
    cluster.apply(policy);
    let local = cluster.local("policies");
    assert!(local[0].contains(r#""refused":[{"class":"filtered-label","field":"spec.endpointSelector.matchLabels[k8s:pod-template-hash]","#), "{local:?}");
    assert!(
        local[0].contains(r#"{"class":"unsupported","field":"spec.egress[0].toFQDNs","#),
        "{local:?}"
    );
    let [(key, Some(refused))] = &cluster.exporter.take_refusal_changes()[..] else { panic!() };
    assert_eq!(
        (key.to_string().as_str(), refused.uid.to_string().as_str()),
        ("CiliumNetworkPolicy shop/web", "u1")
    );
    let classes = [RefusalClass::Unsupported, RefusalClass::FilteredLabel].into();
    assert_eq!(refused.classes(), classes);
    let text = refused.to_string();
    assert!(text.starts_with("refused as a whole: spec.endpointSelector"), "{text}");
    assert!(
        text.ends_with(". Where policies are enforced, what it would govern is denied"),
        "{text}"
    );

    // The same once more changes nothing, nor does what is not about refusals.
    cluster.apply(policy);
    cluster.apply(&policy.replace("example.com", "example.org"));
    assert_eq!(cluster.exporter.take_refusal_changes(), []);
    cluster.apply(&policy.replace("toFQDNs: [{matchName: example.com}]", "toCIDR: [10.0.0.0/8]"));
    assert_eq!(cluster.exporter.take_refusal_changes().len(), 1);
    cluster.apply("apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: web, namespace: shop}\nspec: {endpointSelector: {}, ingress: [{}]}\n");
    assert!(matches!(&cluster.exporter.take_refusal_changes()[..], [(_, None)]));
}

#[test]
fn the_last_valid_version_stays_where_a_new_one_is_malformed() {
    let mut cluster = Cluster::new();
    cluster.apply(&network_policy("deny", "{podSelector: {}}"));
    let wanted = [in_force("deny", r#"{"podSelector":{}}"#)];
    cluster.apply(&network_policy("deny", MALFORMED));
    assert_eq!(cluster.local("policies"), wanted);
    let text = refused(&mut cluster).concat();
    assert!(
        text.starts_with("NetworkPolicy shop/deny: refused as a whole: spec.podSelector: "),
        "{text}"
    );
    assert!(text.ends_with(". Its previous version stays in force"), "{text}");
    cluster.apply(&network_policy("deny", "{podSelector: {}, policyTypes: [Egress]}"));
    let wanted = [in_force("deny", r#"{"podSelector":{},"policyTypes":["Egress"]}"#)];
    assert_eq!(cluster.local("policies"), wanted);
    assert_eq!(refused(&mut cluster), Vec::<String>::new());

    // One without a valid version is exported as it is, to be denied what it would govern.
    cluster.apply(&network_policy("new", MALFORMED));
    assert!(cluster.local("policies")[1].contains(r#""refused":[{"class":"malformed""#));
    // One that is not supported replaces what is in force: it is no mistake.
    let cilium = |spec: &str| {
        format!(
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: a, namespace: shop}}\nspec: {spec}\n"
        )
    };
    cluster.apply(&cilium("{endpointSelector: {}, ingress: [{}]}"));
    cluster.apply(&cilium("{endpointSelector: {}, ingress: [{authentication: {mode: required}}]}"));
    assert!(cluster.local("policies")[0].contains(r#""class":"unsupported""#));

    // After it is deleted, nothing stays.
    cluster.delete(Kind::NetworkPolicy, "shop", "deny");
    cluster.apply(&network_policy("deny", MALFORMED));
    assert!(cluster.local("policies")[1].contains(r#""refused""#));
}

/// What an etcd has of a policy.
fn recalled(spec: &str) -> LocalPolicy {
    let reference = PolicyRef {
        kind: PolicyKind::NetworkPolicy,
        namespace: "shop".into(),
        name: "deny".into(),
    };
    LocalPolicy { reference, json: json("deny", spec).into(), refused: Vec::new() }
}

/// An apiserver that starts knows no earlier versions, but the etcd does.
#[test]
fn the_last_valid_version_stays_after_a_restart() {
    let valid = r#"{"podSelector":{}}"#;
    let wanted = [in_force("deny", valid)];
    // Whichever is read first.
    for etcd_first in [true, false] {
        let mut cluster = Cluster::new();
        if etcd_first {
            cluster.exporter.recall_policies(vec![recalled(valid)]);
            assert_eq!(cluster.local("policies"), Vec::<String>::new());
        }
        cluster.apply(&network_policy("deny", MALFORMED));
        cluster.exporter.recall_policies(vec![recalled(valid)]);
        assert_eq!(cluster.local("policies"), wanted);
        let text = refused(&mut cluster).concat();
        assert!(text.ends_with(". Its previous version stays in force"), "{text}");
        cluster.apply(&network_policy("deny", "{podSelector: 1}"));
        assert_eq!(cluster.local("policies"), wanted);
    }
    // A version that is not malformed counts, whatever the etcd has.
    let mut cluster = Cluster::new();
    cluster.exporter.recall_policies(vec![recalled(valid)]);
    cluster.apply(&network_policy("deny", "{podSelector: {}, policyTypes: [Egress]}"));
    let policy = r#"{"podSelector":{},"policyTypes":["Egress"]}"#;
    assert_eq!(cluster.local("policies"), [in_force("deny", policy)]);
    // What is gone from the source, or was refused before, or is not valid, is not taken from an etcd.
    for (found, listed) in [
        (recalled(valid), true),
        (recalled("1"), false),
        (LocalPolicy { refused: vec![too_large()], ..recalled(valid) }, false),
    ] {
        let mut cluster = Cluster::new();
        if listed {
            cluster.listed(Kind::NetworkPolicy);
        }
        cluster.exporter.recall_policies(vec![found]);
        cluster.apply(&network_policy("deny", MALFORMED));
        assert!(cluster.local("policies")[0].contains(r#""class":"malformed""#));
    }
}

fn too_large() -> Refusal {
    Refusal { field: String::new(), reason: "it is too large".into(), class: RefusalClass::Limit }
}

#[test]
fn one_that_is_too_large_is_exported_in_outline() {
    let mut cluster = Cluster::new();
    let many: Vec<String> = (0..60_000)
        .map(|n| format!("{{ipBlock: {{cidr: 10.{}.{}.0/24}}}}", n / 250, n % 250))
        .collect();
    let spec = format!(
        "{{podSelector: {{matchLabels: {{app: web}}}}, ingress: [{{from: [{}]}}]}}",
        many.join(", ")
    );
    cluster.apply(&network_policy("large", &spec));
    let local = cluster.local("policies").concat();
    let spec = r#"{"ingress":[null],"podSelector":{"matchLabels":{"app":"web"}}}"#;
    let begins = in_force("large", spec);
    let begins = begins.strip_suffix('}').unwrap();
    assert!(
        local.starts_with(&format!(
            r#"{begins},"refused":[{{"class":"limit","field":"","reason":"it has "#
        )),
        "{}",
        &local[..900]
    );
    assert!(refused(&mut cluster).concat().contains("an etcd takes requests of 1.5 MiB"));
}

#[test]
fn many_refusals_are_counted() {
    let mut cluster = Cluster::new();
    let many = vec!["{ipBlock: {cidr: x}}"; 1_000].join(", ");
    cluster.apply(&network_policy(
        "a",
        &format!("{{podSelector: {{}}, ingress: [{{from: [{many}]}}]}}"),
    ));
    let (_, refused) = cluster.exporter.refused_policies().first_key_value().unwrap();
    assert_eq!((refused.refusals.len(), refused.more), (16, 984));
    assert!(refused.to_string().contains("; and 997 more. "), "{refused}");
}

/// The policies of a namespace that are beyond its limit.
fn over(cluster: &Cluster) -> Vec<String> {
    let refused = cluster.exporter.refused_policies().iter();
    refused
        .map(|(key, refused)| {
            assert_eq!(refused.classes(), [RefusalClass::Limit].into());
            key.name.to_string()
        })
        .collect()
}

#[test]
fn a_namespace_with_too_many_policies_costs_only_its_last_ones() {
    let mut cluster = Cluster::new();
    let policy =
        |name: &str| network_policy(name, "{podSelector: {matchLabels: {app: a}}, ingress: [{}]}");
    for first in 0..10 {
        let some: Vec<String> =
            (0..100).map(|n| policy(&format!("p{:04}", first * 100 + n))).collect();
        cluster.apply(&some.join("---\n"));
    }
    assert_eq!(over(&cluster), Vec::<String>::new());
    cluster.apply(&policy("a"));
    assert_eq!(over(&cluster), ["p0999"]);
    let local = cluster.local("policies");
    let last = local.last().unwrap();
    assert!(
        last.contains(r#""spec":{"ingress":[null],"podSelector":{"matchLabels":{"app":"a"}}}}"#),
        "{last}"
    );
    cluster.apply(&policy("z"));
    assert_eq!(over(&cluster), ["p0999", "z"]);
    // Another namespace is not concerned, nor are policies of the cluster.
    cluster.apply(&policy("y").replace("shop", "other"));
    cluster.apply("apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: y}\nspec: {endpointSelector: {}, ingress: [{}]}\n");
    assert_eq!(over(&cluster), ["p0999", "z"]);
    cluster.delete(Kind::NetworkPolicy, "shop", "p0000");
    assert_eq!(over(&cluster), ["z"]);
    cluster.delete(Kind::NetworkPolicy, "shop", "z");
    assert_eq!(over(&cluster), Vec::<String>::new());
    assert!(cluster.local("policies").iter().all(|policy| !policy.contains("refused")));
}

/// A version of a policy.
#[derive(Clone, Copy, Debug)]
enum Version {
    Valid(u8),
    Unsupported,
    Malformed,
    Gone,
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![
        (0..3u8).prop_map(Version::Valid),
        Just(Version::Unsupported),
        Just(Version::Malformed),
        Just(Version::Gone),
    ]
}

proptest! {
    /// After any changes, what is exported is the last version that is not malformed; without one, the malformed one.
    #[test]
    fn the_last_version_that_is_not_malformed_is_exported(changes in proptest::collection::vec((0..3u8, version()), 0..20)) {
        let mut cluster = Cluster::new();
        let mut wanted = BTreeMap::<u8, (Version, bool)>::new();
        for (policy, version) in changes {
            let name = format!("p{policy}");
            let spec = match version {
                Version::Valid(n) => format!("{{endpointSelector: {{}}, ingress: [{{toPorts: [{{ports: [{{port: \"{}\"}}]}}]}}]}}", n + 1),
                Version::Unsupported => "{endpointSelector: {}, ingress: [{authentication: {mode: required}}]}".into(),
                Version::Malformed => "{endpointSelector: 1, ingress: [{}]}".into(),
                Version::Gone => {
                    cluster.delete(Kind::CiliumNetworkPolicy, "shop", &name);
                    wanted.remove(&policy);
                    continue;
                }
            };
            cluster.apply(&format!("apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"));
            match (version, wanted.get_mut(&policy)) {
                (Version::Malformed, Some(known)) => known.1 = true,
                (version, _) => drop(wanted.insert(policy, (version, !matches!(version, Version::Valid(_))))),
            }
        }
        let local = cluster.local("policies");
        prop_assert_eq!(local.len(), wanted.len());
        for (text, (policy, (version, is_refused))) in local.iter().zip(wanted) {
            let begins = format!("cnp/shop/p{policy} ");
            prop_assert!(text.starts_with(&begins));
            let has = match version {
                Version::Valid(n) => format!(r#""port":"{}"}}]}}]}}]}}}}}}"#, n + 1),
                Version::Unsupported => r#""class":"unsupported""#.into(),
                Version::Malformed => r#""class":"malformed""#.into(),
                Version::Gone => unreachable!(),
            };
            prop_assert!(text.contains(&has), "{} {}", has, text);
            let name = format!("p{policy}");
            let named = cluster.exporter.refused_policies().keys().any(|key| *key.name == *name);
            prop_assert_eq!(named, is_refused);
        }
    }
}
