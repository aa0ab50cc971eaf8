//! Policies of an API server: what is exported of them, and the events on those that are refused.

use super::*;

fn network_policy(name: &str, label: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{podSelector: {{matchLabels: {{{label}: x}}}}, policyTypes: [Ingress]}}\n"
    )
}

fn cilium(name: &str, rule: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{endpointSelector: {{}}, ingress: [{rule}]}}\n"
    )
}

/// What is refused of a policy in the etcd; `None`: there is no such key.
fn refused(apiserver: &Apiserver, policy: &str) -> Option<Vec<String>> {
    let value = value(apiserver, &format!("clustermesh/local/v1/policies/{policy}"));
    let fields = value["refused"].as_array().into_iter().flatten();
    let fields = fields.map(|one| format!("{}: {}", one["class"], one["field"]).replace('"', ""));
    value.is_object().then(|| fields.collect())
}

fn wait_for_policy(apiserver: &Apiserver, policy: &str, wanted: Option<&[&str]>) {
    within(PATIENCE, &format!("{policy} is {wanted:?}"), || {
        let found = refused(apiserver, policy);
        let texts = found.as_ref().map(|all| all.iter().map(String::as_str).collect::<Vec<_>>());
        match texts.as_deref() == wanted {
            true => Ok(()),
            false => Err(format!("{found:?}; {}", apiserver.log_text())),
        }
    });
}

/// The events about an object: each with its words and how often it came.
fn events(kubernetes: &Kubernetes, namespace: &str, object: &Value) -> Vec<(String, u64)> {
    let all = kubernetes.get(&["events.events.k8s.io", "-n", namespace]);
    let all = all["items"].as_array().unwrap().clone().into_iter();
    let about = all.filter(|event| event["regarding"]["uid"] == object["metadata"]["uid"]);
    let mut found: Vec<(String, u64)> = about
        .map(|event| {
            assert_eq!(
                (&event["reason"], &event["type"]),
                (&json!("PolicyRefused"), &json!("Warning"))
            );
            assert_eq!(event["regarding"]["kind"], object["kind"]);
            let count = event["series"]["count"].as_u64().unwrap_or(1);
            (event["note"].as_str().unwrap().to_owned(), count)
        })
        .collect();
    found.sort();
    found
}

/// Waits until an object has so many events, and some of these words came so often.
fn wait_for_event(
    kubernetes: &Kubernetes,
    namespace: &str,
    object: &Value,
    wanted: (usize, &str, u64),
) {
    let (count, words, times) = wanted;
    within(PATIENCE, &format!("an event with {words:?}"), || {
        let found = events(kubernetes, namespace, object);
        let is_there = found.iter().any(|(note, came)| note.contains(words) && *came == times);
        if found.len() == count && is_there { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

/// With the rights of the manifest only.
#[test]
fn policies_are_exported_and_what_is_refused_is_told_on_the_object() {
    let kubernetes = Kubernetes::start();
    install(&kubernetes);
    kubernetes.apply(NAMESPACE);
    kubernetes.apply(&network_policy("deny", "app"));
    kubernetes.apply(&network_policy("filtered", "pod-template-hash"));
    let etcd = Etcd::start();
    let mut apiserver = apiserver(&etcd, &kubernetes);

    // Without Cilium's kinds: they are no problem, and said.
    apiserver.wait_ready();
    wait_for_policy(&apiserver, "netpol/shop/deny", Some(&[]));
    let filtered = "filtered-label: spec.podSelector.matchLabels[pod-template-hash]";
    wait_for_policy(&apiserver, "netpol/shop/filtered", Some(&[filtered]));
    let get = |kind: &str, name: &str| kubernetes.get(&["-n", "shop", kind, name]);
    let object = get("networkpolicy", "filtered");
    wait_for_event(&kubernetes, "shop", &object, (1, "pod-template-hash", 1));
    apiserver.wait_problem("NetworkPolicy shop/filtered: refused as a whole: spec.podSelector");
    let status = apiserver.status();
    let kinds = json!([
        { "kind": "NetworkPolicy", "policies": 2, "refused": 1, "absent": false },
        { "kind": "CiliumNetworkPolicy", "policies": 0, "refused": 0, "absent": true },
        { "kind": "CiliumClusterwideNetworkPolicy", "policies": 0, "refused": 0, "absent": true },
    ]);
    assert_eq!(status["policies"]["kinds"], kinds);
    assert!(!status["problems"].to_string().to_lowercase().contains("cilium"), "{status}");
    let metric =
        r#"clustermesh_apiserver_policies_refused{kind="NetworkPolicy",reason="filtered-label"} 1"#;
    assert!(apiserver.metrics().contains(metric), "{}", apiserver.metrics());

    // They come, and are found.
    install_cilium_policies(&kubernetes);
    kubernetes.apply(&cilium("web", "{toPorts: [{ports: [{port: \"80\"}]}]}"));
    wait_for_policy(&apiserver, "cnp/shop/web", Some(&[]));
    kubernetes.apply("apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: hosts}\nspec: {nodeSelector: {}, ingress: [{}]}\n");
    wait_for_policy(&apiserver, "ccnp/hosts", Some(&["unsupported: spec.nodeSelector"]));
    let hosts = kubernetes.get(&["ciliumclusterwidenetworkpolicy", "hosts"]);
    wait_for_event(&kubernetes, "default", &hosts, (1, "spec.nodeSelector", 1));

    // A malformed version replaces nothing, in the next run neither.
    let web = get("ciliumnetworkpolicy", "web");
    kubernetes.apply(&cilium("web", "{toPorts: 80}"));
    wait_for_event(&kubernetes, "shop", &web, (1, "Its previous version stays in force", 1));
    wait_for_policy(&apiserver, "cnp/shop/web", Some(&[]));
    let in_force = value(&apiserver, "clustermesh/local/v1/policies/cnp/shop/web");
    apiserver.kill();
    apiserver.start_again();
    apiserver.wait_ready();
    apiserver
        .wait_problem("CiliumNetworkPolicy shop/web: refused as a whole: spec.ingress[0].toPorts");
    assert_eq!(value(&apiserver, "clustermesh/local/v1/policies/cnp/shop/web"), in_force);

    // The next run says nothing again. Events are written by kind and name, so the last one comes after the others.
    kubernetes.apply("apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: last}\nspec: {nodeSelector: {}, ingress: [{}]}\n");
    let last = kubernetes.get(&["ciliumclusterwidenetworkpolicy", "last"]);
    wait_for_event(&kubernetes, "default", &last, (1, "spec.nodeSelector", 1));
    for (namespace, object) in [("shop", &object), ("shop", &web), ("default", &hosts)] {
        assert_eq!(events(&kubernetes, namespace, object).len(), 1, "{object}");
        assert_eq!(events(&kubernetes, namespace, object)[0].1, 1, "{object}");
    }

    // Other refusals are another event; the same as before are counted.
    let fqdn = "{authentication: {mode: required}}";
    kubernetes.apply(&cilium("web", fqdn));
    wait_for_policy(
        &apiserver,
        "cnp/shop/web",
        Some(&["unsupported: spec.ingress[0].authentication"]),
    );
    wait_for_event(&kubernetes, "shop", &web, (2, "spec.ingress[0].authentication", 1));
    kubernetes.apply(&cilium("web", "{}"));
    wait_for_policy(&apiserver, "cnp/shop/web", Some(&[]));
    kubernetes.apply(&cilium("web", fqdn));
    wait_for_event(&kubernetes, "shop", &web, (2, "spec.ingress[0].authentication", 2));

    // What is deleted is gone, and so is a kind.
    kubernetes.must(&["delete", "-n", "shop", "networkpolicy/deny"]);
    wait_for_policy(&apiserver, "netpol/shop/deny", None);
    for kind in ["ciliumnetworkpolicies", "ciliumclusterwidenetworkpolicies"] {
        kubernetes.must(&["delete", &format!("crd/{kind}.cilium.io"), "--wait=false"]);
    }
    for policy in ["cnp/shop/web", "ccnp/hosts", "ccnp/last"] {
        wait_for_policy(&apiserver, policy, None);
    }
    within(PATIENCE, "Cilium's kinds are absent", || {
        let kinds = apiserver.status()["policies"]["kinds"].clone();
        let absent = kinds.as_array().into_iter().flatten().filter(|kind| kind["absent"] == true);
        if absent.count() == 2 { Ok(()) } else { Err(kinds.to_string()) }
    });
    apiserver.wait_ready();
    let problems = apiserver.status()["problems"].to_string();
    assert!(!problems.contains("the API server"), "{problems}");
}
