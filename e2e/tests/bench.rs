//! Every benchmark runs with small sizes, measures what its name says, and leaves nothing behind. The sizes of its figures
//! are not checked, because other tests run on the machine.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is test code"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use mesh_e2e::{
    EtcdVersion, kubernetes,
    mesh::{eventually, within},
    netns::binary,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// Starts a benchmark.
fn start(lab: &str, args: &[&str]) -> Child {
    let mut bench = Command::new(binary());
    bench.args(["bench", "--lab", lab, "--output", "json"]).args(args).stdout(Stdio::piped());
    if args[0] == "source" {
        // A kube-apiserver needs a later one than Debian's.
        bench.env("CLUSTERMESH_LAB_ETCD", EtcdVersion::V3_6.program());
    }
    bench.spawn().expect("it starts")
}

/// Runs a benchmark and returns its table. The benchmark must leave nothing behind.
fn bench(lab: &str, args: &[&str]) -> Value {
    tables(lab, args)[args[0]].take()
}

/// The tables of a benchmark that has several.
fn tables(lab: &str, args: &[&str]) -> Value {
    let child = start(lab, args);
    let id = child.id();
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{args:?}: {} {text}", output.status);
    assert_eq!(left(lab, id), Vec::<PathBuf>::new(), "{args:?} leaves files behind");
    serde_json::from_str(&text).expect("JSON")
}

/// The files that exist of a benchmark's lab and of its process's sandbox.
fn left(lab: &str, id: u32) -> Vec<PathBuf> {
    let cgroups: PathBuf = fs::read_to_string("/proc/mounts")
        .expect("mounts")
        .lines()
        .find(|line| line.split(' ').nth(2) == Some("cgroup2"))
        .and_then(|line| line.split(' ').nth(1).map(PathBuf::from))
        .expect("a cgroup2 mount");
    let sandbox = format!("clustermesh-bench-{id}");
    let named = [
        cgroups.join("clustermesh-lab").join(lab),
        cgroups.join(&sandbox),
        Path::new("/run/clustermesh-lab").join(lab),
        Path::new("/sys/fs/bpf/clustermesh-lab").join(lab),
        Path::new("/sys/fs/bpf").join(sandbox),
    ];
    let prefixes = [format!("cm-{lab}-"), format!("cmbench-{id}-")];
    let namespaces = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        prefixes.iter().any(|prefix| name.starts_with(prefix))
    };
    let namespaces = namespaces.map(|entry| entry.path()).filter(is_ours);
    named.into_iter().filter(|path| path.exists()).chain(namespaces).collect()
}

/// A number of a row.
fn number(row: &Value, path: &str) -> f64 {
    row.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {path} in {row:#}"))
}

fn rows(table: &Value) -> &Vec<Value> {
    table.as_array().unwrap_or_else(|| panic!("no rows: {table:#}"))
}

#[test]
fn mesh() {
    let sizes = ["--real", "10", "--replayed", "10", "--nodes", "3", "--endpoints", "12"];
    let more = ["--services", "4", "--rates", "0,50", "--changes", "40", "--seconds", "1"];
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("growth.svg");
    let drawn = ["--picture", picture.to_str().unwrap()];
    let table = bench("benchmesh", &[&["mesh"], &sizes[..], &more, &drawn].concat());
    let rows = rows(&table);
    let etcds: Vec<&str> = rows.iter().map(|row| row["etcds"].as_str().unwrap()).collect();
    assert_eq!(etcds, ["real", "replayed"]);
    for row in rows {
        assert_eq!((number(row, "/clusters"), number(row, "/endpoints")), (10.0, 120.0));
        // Identities, addresses, nodes (the lab's first node is one of the three) and a slice for each service.
        let keys = 10.0 * (4.0 + 12.0 + 3.0 + 4.0);
        assert!((number(row, "/bootstrap/keys") - keys).abs() < 0.5, "{row:#}");
        for positive in ["/bootstrap/cpuMillis", "/bootstrap/readCpuMillis", "/resident"] {
            assert!(number(row, positive) > 0.0, "{positive} of {row:#}");
        }
        assert!(
            number(row, "/held/descriptors") > 10.0,
            "each cluster takes a connection: {row:#}"
        );
        assert_eq!(row["changes"].as_array().unwrap().len(), 2);
        for changes in row["changes"].as_array().unwrap() {
            assert!(number(changes, "/changes") >= 40.0, "{changes:#}");
            let timed = number(changes, "/kernel/count");
            assert!(timed > 0.0 && number(changes, "/watch/count") == timed, "{changes:#}");
            assert!(number(changes, "/kernel/p50Nanos") > 0.0, "{changes:#}");
        }
    }
    let svg = fs::read_to_string(&picture).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("<circle"), "{svg}");
}

#[test]
fn propagation() {
    let table = bench("benchprop", &["propagation", "--samples", "10", "--services", "0,5"]);
    for (row, services) in rows(&table).iter().zip([0.0, 5.0]) {
        assert_eq!(number(row, "/services"), services);
        assert_eq!((number(row, "/kernel/count"), number(row, "/watch/count")), (10.0, 10.0));
    }
    assert_eq!(rows(&table).len(), 2);
}

#[test]
fn takeover() {
    let table = bench("benchtake", &["takeover", "--rounds", "2", "--services", "200"]);
    let row = &rows(&table)[0];
    assert_eq!((number(row, "/kernel/count"), number(row, "/needlessWrites")), (2.0, 0.0));
    let [then, settled] = ["/bytesRead", "/bytesSettled"].map(|path| number(row, path));
    assert!(0.0 < then && then <= settled, "{row:#}");
    assert!(settled > 200.0 * 100.0, "a service's slice is longer, and all are listed: {row:#}");
}

#[test]
fn cut() {
    let row = bench("benchcut", &["cut", "--rounds", "1"]);
    assert_eq!(number(&row, "/written/count"), 1.0);
    assert!(number(&row, "/connections") > number(&row, "/lost"), "{row:#}");
}

#[test]
fn endpoints() {
    let few = ["--endpoints", "500", "--budget", "16", "--rounds", "2"];
    let all = tables("benchends", &[&["endpoints"], &few[..]].concat());
    let row = &rows(&all["endpoints"])[0];
    assert_eq!(number(row, "/endpoints"), 500.0);
    assert!(number(row, "/bytes") > 500.0 * 100.0, "an endpoint's record is longer: {row:#}");
    // Floods of records that an agent keeps end in quarantine. Floods of others do not, and neither does traffic within the
    // budget.
    let hostile = rows(&all["hostile"]);
    let quarantined = hostile.iter().map(|row| row["quarantined"].as_bool().unwrap());
    assert_eq!(quarantined.collect::<Vec<_>>(), [true, false, true, true, false, false, false]);
    for row in hostile {
        assert!(number(row, "/resident") <= number(row, "/allowed"), "{row:#}");
        assert!(number(row, "/coreShare") > 0.0, "{row:#}");
    }
}

#[test]
fn source() {
    let programs = kubernetes::programs().display().to_string();
    let sizes = ["--pods", "200,2000", "--changes", "50", "--kubernetes", &programs];
    let table = bench("benchsrc", &[&["source"], &sizes[..]].concat());
    let rows = rows(&table);
    assert_eq!(rows.len(), 2);
    for (row, pods) in rows.iter().zip([200.0, 2_000.0]) {
        assert_eq!(number(row, "/pods"), pods);
        assert!(number(row, "/json") > 1_000.0, "as long as a pod of an API server: {row:#}");
        assert_eq!(number(row, "/changes"), 50.0);
        assert!(number(row, "/changeMicros") > 0.0, "{row:#}");
        assert!(number(row, "/rateCores") > 0.0 && number(row, "/rate") < 51.0, "{row:#}");
    }
}

#[test]
fn policy() {
    let small = ["--identities", "500", "--policies", "50", "--cidrs", "200", "--rounds", "5"];
    let table = bench("benchpol", &[&["policy"], &small[..]].concat());
    let rows = rows(&table);
    let sizes: Vec<f64> = rows.iter().map(|row| number(row, "/identities")).collect();
    assert_eq!(sizes, [50.0, 500.0]);
    for row in rows {
        for time in ["identityMicros", "comparedMicros", "fewMillis", "allMillis", "cidrsMillis"] {
            assert!(number(row, &format!("/{time}")) > 0.0, "{time}: {row:#}");
        }
    }
}

#[test]
fn judge() {
    let small = ["--addresses", "1000", "--packets", "1000", "--rounds", "3"];
    let table = bench("benchjudge", &[&["judge"], &small[..]].concat());
    let rows = rows(&table);
    let rules: Vec<f64> = rows.iter().map(|row| number(row, "/rules")).collect();
    assert_eq!(rules, [1.0, 64.0, 512.0]);
    for row in rows {
        for time in ["otherNanos", "firstNanos", "flowNanos"] {
            assert!(number(row, &format!("/{time}")) > 0.0, "{time}: {row:#}");
        }
    }
}

#[test]
fn reconnect() {
    let row = bench("benchreco", &["reconnect", "--endpoints", "500"]);
    // Ten endpoints are replaced by ten others.
    assert_eq!(number(&row, "/tableChanges"), 20.0);
    assert!(number(&row, "/received") < number(&row, "/all"), "{row:#}");
}

#[test]
fn events() {
    let few = ["--readers", "2", "--rounds", "1", "--turns", "1"];
    let row = bench("benchevent", &[&["events"], &few[..]].concat());
    assert_eq!((number(&row, "/readers"), number(&row, "/events")), (2.0, 500.0));
}

#[test]
fn cni() {
    let table = bench("benchcni", &["cni", "--rounds", "2"]);
    for row in rows(&table) {
        let counts = ["/with/count", "/without/count", "/ours/count"].map(|path| number(row, path));
        assert_eq!(counts, [2.0; 3], "{row:#}");
    }
    assert_eq!(rows(&table).len(), 2);
}

#[test]
fn change() {
    let few = ["--backends", "10,150", "--rounds", "1", "--batch", "4"];
    let table = bench("benchchange", &[&["change"], &few[..]].concat());
    let forms: Vec<(&str, f64)> = rows(&table)
        .iter()
        .map(|row| (row["form"].as_str().unwrap(), number(row, "/backends")))
        .collect();
    assert_eq!(forms, [("v2", 10.0), ("v2", 150.0), ("v1", 10.0), ("v1", 150.0)]);
    for row in rows(&table) {
        // A removal from the middle moves the last backend into the free slot, so it takes at least the two writes of
        // removing the last one.
        assert!(number(row, "/removingWrites") >= 2.0, "{row:#}");
        assert!(number(row, "/addingWrites") >= 2.0, "{row:#}");
    }
}

#[test]
fn connect() {
    let few = ["--services", "10,50", "--rules-up-to", "10", "--rounds", "3", "--batch", "10"];
    let table = bench("benchconn", &[&["connect"], &few[..]].concat());
    let found: Vec<(&str, &str, f64)> = rows(&table)
        .iter()
        .map(|row| {
            (
                row["way"].as_str().unwrap(),
                row["transport"].as_str().unwrap(),
                number(row, "/services"),
            )
        })
        .collect();
    let expected = [
        ("socket", "tcp", 10.0),
        ("nftables", "tcp", 10.0),
        ("iptables", "tcp", 10.0),
        ("socket", "udp", 10.0),
        ("socket", "tcp", 50.0),
        ("socket", "udp", 50.0),
    ];
    assert_eq!(found, expected);
    assert!(rows(&table).iter().all(|row| number(row, "/connects") == 30.0));
}

#[test]
fn export() {
    let few = ["--pods", "30,300", "--rounds", "1"];
    let table = bench("benchexport", &[&["export"], &few[..]].concat());
    let forms: Vec<(&str, f64)> = rows(&table)
        .iter()
        .map(|row| (row["form"].as_str().unwrap(), number(row, "/podsAService")))
        .collect();
    let expected = [
        ("documents", 300.0),
        ("documents", 100.0),
        ("list", 100.0),
        ("json", 100.0),
        ("folder", 100.0),
    ];
    assert_eq!(forms, expected);
    for row in rows(&table) {
        // The config, an address for each pod, and for each service itself, an identity and its slices.
        let services = 300.0 / number(row, "/podsAService");
        assert!(number(row, "/keys") > 1.0 + 300.0 + 2.0 * services, "{row:#}");
        for positive in ["/millis", "/fewerMillis", "/decodeMillis", "/ratio"] {
            assert!(number(row, positive) > 0.0, "{positive} of {row:#}");
        }
    }
}

#[test]
fn fill() {
    let row = bench("benchfill", &["fill", "--services", "2000"]);
    // Each service has an entry, a header, and two backends with five writes each.
    assert!(number(&row, "/writes") >= 2.0 + 2.0 * 5.0, "{row:#}");
}

#[test]
fn memory() {
    let table = bench("benchmem", &["memory"]);
    assert_eq!(rows(&table).len(), 4);
    for pair in rows(&table).windows(2) {
        assert!(number(&pair[0], "/emptyBytes") < number(&pair[1], "/emptyBytes"), "{pair:#?}");
    }
}

#[test]
fn a_stopped_benchmark_removes_its_lab() {
    let mut child = start("benchstop", &["reconnect", "--endpoints", "500"]);
    let id = child.id();
    let agent = Path::new("/run/clustermesh-lab/benchstop/nodes/b-n1/agent.sock");
    eventually("its lab is up", || if agent.exists() { Ok(()) } else { Err("no agent".into()) });
    kill(Pid::from_raw(id.try_into().unwrap()), Signal::SIGTERM).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(1));
    assert_eq!(left("benchstop", id), Vec::<PathBuf>::new());
}

#[test]
fn the_next_benchmark_removes_what_a_killed_one_left() {
    let mut child = start("benchkill", &["fill", "--services", "1000000"]);
    let id = child.id();
    let pins = Path::new("/sys/fs/bpf").join(format!("clustermesh-bench-{id}"));
    let patience = std::time::Duration::from_secs(60);
    within(patience, "it fills", || if pins.exists() { Ok(()) } else { Err("no pins".into()) });
    child.kill().unwrap();
    child.wait().unwrap();
    assert_ne!(left("benchkill", id), Vec::<PathBuf>::new(), "a killed process removes nothing");
    bench("benchkill", &["fill", "--services", "10"]);
    assert_eq!(left("benchkill", id), Vec::<PathBuf>::new());
}
