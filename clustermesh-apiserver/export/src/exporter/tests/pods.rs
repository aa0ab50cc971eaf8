use proptest::prelude::*;

use super::*;

#[test]
fn a_pod_that_comes_again_is_kept_once() {
    let mut cluster = Cluster::new();
    let known = |cluster: &Cluster| match cluster.exporter.objects.values().next() {
        Some(Object::Pod(pod)) => Arc::clone(pod),
        other => panic!("{other:?}"),
    };
    cluster.apply(&pod("p", "10.7.1.5", "x"));
    let first = known(&cluster);
    cluster.apply(&pod("p", "10.7.1.5", "x"));
    assert!(Arc::ptr_eq(&first, &known(&cluster)));
    assert_eq!(Arc::strong_count(&first), 3, "here, in the objects, and as it was exported");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// After any changes, and whether or not there were IDs meanwhile, the keys, the values and the IDs in use are those of
    /// an exporter that sees the objects for the first time. Who reads the changed keys only has all of them.
    #[test]
    fn changed_pods_have_the_records_of_new_ones(
        steps in prop::collection::vec((0_u8..8, 0_u8..3, 0_u8..3, any::<[bool; 2]>()), 1..40),
    ) {
        let mut cluster = Cluster::new();
        let mut objects = BTreeMap::new();
        let mut etcd = BTreeMap::new();
        for (what, name, other, [yes, more]) in steps {
            let p = format!("p{name}");
            let (kind, namespace_of_it, name, object) = match what {
                0..3 => {
                    let mut text = pod(&p, &format!("10.7.{name}.{other}"), &format!("app-{what}"));
                    if yes && more {
                        text = text.replace("status: {", "status: {phase: Succeeded, ");
                    } else if yes {
                        text = text.replace("nodeName: n1, ", "");
                    }
                    (Kind::Pod, "shop", p, Some(text))
                }
                3 => (Kind::Pod, "shop", p, None),
                4 => {
                    let global = namespace(if yes { "true" } else { "false" });
                    (Kind::Namespace, "", "shop".into(), more.then_some(global))
                }
                5 => (Kind::Node, "", "n1".into(), yes.then(|| node(&format!("172.31.7.{other}")))),
                6 => {
                    (cluster.counter.full, cluster.counter.later) = (yes, more);
                    continue;
                }
                _ => {
                    cluster.exporter.retry(&mut cluster.counter);
                    continue;
                }
            };
            let version = ResourceVersion(1);
            let event = match &object {
                Some(text) => {
                    let (_, object) = decode(Format::Yaml, text).whole().unwrap().objects.remove(0);
                    SourceEvent::Applied { resource_version: version, object }
                }
                None => {
                    let key = ObjectKey { kind, namespace: namespace_of_it.into(), name: name.as_str().into() };
                    SourceEvent::Deleted { resource_version: version, key }
                }
            };
            cluster.exporter.handle(event, &mut cluster.counter);
            match object {
                Some(text) => objects.insert((kind, name), text),
                None => objects.remove(&(kind, name)),
            };
            cluster.publish();
            for key in cluster.exporter.take_changed() {
                match cluster.exporter.value(&key) {
                    Some(value) => etcd.insert(key, value),
                    None => etcd.remove(&key),
                };
            }
            prop_assert_eq!(&etcd, &cluster.exporter.desired());
        }
        (cluster.counter.full, cluster.counter.later) = (false, false);
        cluster.exporter.retry(&mut cluster.counter);
        cluster.publish();
        cluster.changed();

        let mut new = Cluster::new();
        new.counter.known = cluster.counter.known.clone();
        new.apply(&objects.into_values().collect::<String>());
        prop_assert_eq!(cluster.exporter.desired(), new.exporter.desired());
        for identity in (458_753..).take(cluster.counter.known.len()).map(Identity::new) {
            prop_assert_eq!(cluster.exporter.uses(identity), new.exporter.uses(identity));
        }
    }
}
