//! The figures of `docs/performance.md` can be measured: with small sizes, and without a look at how large they are.

use mesh_e2e::{
    Kind,
    figures::{Options, measure},
    mesh::output,
};

#[test]
fn figures_of_a_small_run() {
    let mesh = Kind::up(&["a", "b"]);
    let options = Options { samples: 5, idle: 2, busy: 3, rate: 20, pods: 10 };
    let figures = measure(&mesh, "debug", options);
    for row in &figures.kind_propagation {
        assert_eq!(row.kernel.count, 5, "{row:#?}");
        assert!(row.kernel.min_nanos > 0, "the kernel follows the API server: {row:#?}");
        assert!(row.watch.p50_nanos > 0 && row.ratio > 0.0, "{row:#?}");
    }
    let [one, idle, many] = &figures.kind_phases[..] else { panic!("{figures:#?}") };
    assert_eq!((one.pod_changes, idle.pod_changes, idle.slice_changes), (10, 0, 0));
    assert!(many.pod_changes > 10 && many.slice_changes > 0 && many.key_changes > 0, "{many:#?}");
    for phase in &figures.kind_phases {
        assert_eq!((phase.agent_requests, phase.agent_connections), (0, 0), "{phase:#?}");
        assert!(phase.apiserver_connections > 0, "connections are found: {phase:#?}");
    }
    // An etcd and an apiserver in each cluster, and an agent on each of three nodes.
    assert_eq!(figures.kind_components.len(), 7);
    for component in &figures.kind_components {
        for usage in [component.idle, component.busy] {
            assert!(usage.resident_bytes > 1_000_000, "{component:#?}");
        }
        assert!(component.busy.core_percent > 0.0, "{component:#?}");
    }
    for what in [["node", "figures"], ["namespace", "figures"], ["flowschema", "figures-agent"]] {
        let found = output(mesh.kubectl("a", &[&["get"][..], &what].concat()));
        assert!(found.is_err(), "{what:?} stays");
    }
}
