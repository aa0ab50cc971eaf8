use proptest::{prelude::*, sample::Index};

use super::*;

/// A pod, a global service and its slice, in a namespace.
fn objects_in(namespace: &str, n: u8) -> String {
    let pod = pod("p", &format!("10.7.1.{n}"), namespace);
    format!("{pod}{SERVICE}").replace("namespace: shop", &format!("namespace: {namespace}"))
}

fn namespace_object(name: &str, global: &str) -> String {
    namespace(global).replace("name: shop", &format!("name: {name}"))
}

/// The keys of a namespace that other clusters read. Addresses and identities have the namespace in their values.
fn shared(cluster: &Cluster, namespace: &str) -> Vec<String> {
    let within = format!("/{namespace}/");
    let says = [format!("namespace={namespace};"), format!("\"K8sNamespace\":\"{namespace}\"")];
    let desired = cluster.exporter.desired();
    let of = desired.iter().filter(|(key, value)| {
        let value = String::from_utf8_lossy(value);
        key.starts_with("cilium/state/")
            && (key.contains(&within) || says.iter().any(|says| value.contains(says)))
    });
    of.map(|(key, _)| key.to_string()).collect()
}

fn all(cluster: &Cluster) -> usize {
    cluster.exporter.key_count()
}

#[test]
fn nothing_is_exported_before_all_namespaces_are_known() {
    let mut cluster = Cluster::new();
    cluster.exporter.listed.clear();
    cluster.apply(&(node("172.31.7.1") + &objects_in("shop", 5)));
    assert_eq!(all(&cluster), 1, "the cluster's config");
    let held_back = cluster.exporter.held_back();
    assert!(held_back[0].starts_with("4 objects are not exported until all"), "{held_back:?}");
    // Complete lists of other kinds do not change that.
    Kind::ALL.into_iter().filter(|kind| *kind != Kind::Namespace).for_each(|kind| {
        cluster.listed(kind);
    });
    assert_eq!(all(&cluster), 1);
    assert!(cluster.counter.known.is_empty(), "and nothing is allocated");

    cluster.apply(&namespace("false"));
    cluster.listed(Kind::Namespace);
    assert!(shared(&cluster, "shop").is_empty());
    assert_eq!(cluster.local("services").len(), 1, "local nodes balance it");
    assert!(cluster.exporter.held_back().is_empty());
    cluster.apply(&namespace("true"));
    cluster.publish();
    assert_eq!(shared(&cluster, "shop").len(), 4, "identity, address, service, slice");
}

#[test]
fn the_default_only_applies_if_there_are_no_namespaces() {
    let mut cluster = Cluster::new();
    cluster.apply(&(objects_in("shop", 5) + &objects_in("store", 6)));
    assert!(cluster.exporter.exports_by_default());
    assert_eq!([shared(&cluster, "shop").len(), shared(&cluster, "store").len()], [4, 4]);

    cluster.apply(&namespace_object("shop", "true"));
    cluster.publish();
    assert!(!cluster.exporter.exports_by_default());
    assert_eq!([shared(&cluster, "shop").len(), shared(&cluster, "store").len()], [4, 0]);
    assert_eq!(cluster.local("services").len(), 2, "local nodes know both");
    // Also where one goes while there are others.
    cluster.apply(&namespace_object("store", "true"));
    cluster.publish();
    assert_eq!([shared(&cluster, "shop").len(), shared(&cluster, "store").len()], [4, 4]);
    cluster.delete(Kind::Namespace, "", "store");
    cluster.publish();
    assert_eq!([shared(&cluster, "shop").len(), shared(&cluster, "store").len()], [4, 0]);
    assert_eq!(
        cluster.exporter.held_back(),
        [
            "namespace store: 3 objects are not exported to other clusters: there is no Namespace store, but there are others. Add it"
        ]
    );
    for n in 0..12 {
        cluster.apply(&objects_in(&format!("more-{n}"), 100 + n));
    }
    let held_back = cluster.exporter.held_back();
    assert_eq!(held_back.len(), NAMED + 1);
    assert_eq!(held_back[NAMED], "3 more namespaces have no Namespace either");

    // After the last Namespace is removed, the default applies again.
    cluster.delete(Kind::Namespace, "", "shop");
    cluster.publish();
    assert!(cluster.exporter.held_back().is_empty());
    assert_eq!([shared(&cluster, "shop").len(), shared(&cluster, "store").len()], [4, 4]);
    cluster.exporter.config.default_global_namespace = false;
    assert!(!cluster.exporter.exports_by_default());
}

/// How many namespaces are named in problems.
const NAMED: usize = 10;

/// An event of a source.
#[derive(Clone, Debug)]
enum Step {
    Apply(String),
    Listed(Kind),
}

/// Three namespaces: one that is excluded, one that is not, and one without a Namespace.
fn steps(with_namespaces: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    for (n, name) in (5..).zip(["secret", "shop", "nowhere"]) {
        let text = objects_in(name, n);
        let objects = text.split("---\n").filter(|object| !object.is_empty());
        steps.extend(objects.map(|object| Step::Apply(object.to_owned())));
    }
    if with_namespaces {
        steps.push(Step::Apply(namespace_object("secret", "false")));
        steps.push(Step::Apply(namespace_object("shop", "true")));
    }
    steps.extend(Kind::ALL.map(Step::Listed));
    steps
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Events may come in any order, except that a kind's list is complete after its objects. Excluded objects are never
    /// exported, and the result does not depend on the order.
    #[test]
    fn excluded_objects_are_never_exported_in_any_order(
        picks in prop::collection::vec(any::<Index>(), 40),
        with_namespaces: bool,
    ) {
        let mut left = steps(with_namespaces);
        let mut cluster = Cluster::new();
        cluster.exporter.listed.clear();
        for pick in picks.iter().cycle() {
            // The list of a kind is complete when all its objects were reported.
            let is_of = |step: &Step, kind: Kind| {
                matches!(step, Step::Apply(text) if text.contains(&format!("kind: {kind}\n")))
            };
            let possible: Vec<usize> = (0..left.len()).filter(|at| match &left[*at] {
                Step::Listed(kind) => !left.iter().any(|step| is_of(step, *kind)),
                Step::Apply(_) => true,
            }).collect();
            let Some(at) = (!possible.is_empty()).then(|| possible[pick.index(possible.len())]) else {
                break;
            };
            match left.remove(at) {
                Step::Apply(text) => drop(cluster.apply(&text)),
                Step::Listed(kind) => cluster.listed(kind),
            }
            cluster.publish();
            if with_namespaces {
                prop_assert_eq!(shared(&cluster, "secret"), Vec::<String>::new());
                prop_assert_eq!(shared(&cluster, "nowhere"), Vec::<String>::new());
            }
            if left.iter().any(|step| matches!(step, Step::Listed(Kind::Namespace))) {
                prop_assert_eq!(all(&cluster), 1, "not before all Namespaces are known");
            }
        }
        prop_assert!(cluster.exporter.is_complete());
        let exported = ["secret", "shop", "nowhere"].map(|name| shared(&cluster, name).len());
        prop_assert_eq!(exported, if with_namespaces { [0, 4, 0] } else { [4, 4, 4] });
    }
}

#[test]
fn a_namespace_change_affects_only_its_objects() {
    let mut cluster = Cluster::new();
    let labelled = |label: &str, note: &str, global: &str| {
        let annotations = format!("clustermesh.cilium.io/global: '{global}', note: '{note}'");
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{team: {label}}}, annotations: {{{annotations}}}}}\n---\n"
        )
    };
    let pods = (1..=20).map(|n| pod(&format!("p-{n}"), &format!("10.7.1.{n}"), "web"));
    let elsewhere = objects_in("store", 99) + &namespace_object("store", "true");
    cluster.apply(&(labelled("one", "x", "true") + &elsewhere));
    cluster.apply(&(pods.collect::<String>() + SERVICE));
    let mut makes = |namespace: &str| {
        let before = cluster.exporter.makes;
        cluster.apply(namespace);
        cluster.exporter.makes - before
    };
    assert_eq!(makes(&labelled("one", "y", "true")), 1, "the Namespace alone");
    assert_eq!(makes(&labelled("two", "y", "true")), 1 + 20, "its pods have another identity");
    assert_eq!(makes(&labelled("two", "y", "false")), 1 + 20 + 2, "and its service and slice");
    let teams = cluster.counter.known.iter().filter(|labels| labels.to_string().contains("team"));
    assert_eq!(teams.count(), 2);
}
