//! Pods attached by a chain of CNI plugins: their identity is known when they start, or as soon as possible.

use std::{fs, io::Write as _, path::Path, process::Stdio};

use serde_json::{Value, json};

use crate::echo_service::{CLIENT, ECHO, agent_status, client_ips, two_clusters_with_echo};
use crate::{
    etcdctl, json,
    load::{Assert as _, Traffic},
    mesh::{Daemon, Mesh, eventually, wait_ready},
};

/// When `apply` returns, each pod's agent has the identity that the apiserver published for the pod and for its addresses.
/// CHECK finds no error. After pods are removed, nothing of them is left.
pub fn pods_are_bound_as_they_are_attached(mesh: &impl Mesh) {
    let cluster = &mesh.clusters()[0];
    mesh.apply(cluster, "echo", None);
    mesh.apply(cluster, "client", None);
    let pods = pods(mesh, cluster);
    let names: Vec<&str> = pods.iter().filter_map(|pod| pod["name"].as_str()).collect();
    assert_eq!(names.len(), 3, "{pods:#?}");
    let mut identities = Vec::new();
    for name in ["echo-0", "echo-1", "client"] {
        let pod = pods.iter().find(|pod| pod["name"] == name).expect("the pod");
        assert_eq!(pod["state"], "bound", "{pod:#}");
        let node = mesh.node_of(cluster, name);
        assert_eq!(pod["node"], node.as_str());
        let exported = published(mesh, cluster, &node, name);
        assert_eq!(pod["identity"], exported["identity"], "{exported:#}");
        assert_eq!(pod["uid"], exported["uid"], "{exported:#}");
        assert!(pod["netnsCookie"].as_u64().is_some_and(|cookie| cookie > 0), "{pod:#}");
        let ips: Vec<String> =
            mesh.pod_ips(cluster, name).iter().map(ToString::to_string).collect();
        assert_eq!(pod["addresses"], json!(ips));
        for ip in &ips {
            let key = format!("cilium/state/ip/v1/default/{ip}");
            let address = value(mesh, cluster, &key);
            assert_eq!(pod["identity"], address["ID"], "{address:#}");
        }
        json::of(mesh.check_pod(cluster, name));
        identities.push(pod["identity"].as_u64().expect("an ID"));
    }
    assert_eq!(identities[0], identities[1], "two pods with the same labels");
    assert_ne!(identities[0], identities[2], "and one with others");

    mesh.apply(cluster, "echo", Some(0));
    let left = self::pods(mesh, cluster);
    assert!(left.iter().all(|pod| pod["name"] == CLIENT) && left.len() == 1, "{left:#?}");
    let files = mesh
        .nodes(cluster)
        .into_iter()
        .flat_map(|node| attachments(&mesh.pods_dir(cluster, &node)));
    assert_eq!(files.count(), 1, "the client's");
}

/// A pod starts while its node's agent does not run, and while no apiserver publishes its identity. It is bound when they
/// run again. Nothing is left of a pod that ends meanwhile. Traffic continues all the time.
pub fn a_pod_starts_without_the_control_plane(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    let agents: Vec<Daemon> =
        mesh.nodes(&one).into_iter().map(|node| Daemon::Agent(one.clone(), node)).collect();

    agents.iter().for_each(|agent| mesh.kill(agent));
    mesh.apply(&one, "spare", None);
    agents.iter().for_each(|agent| mesh.start(agent));
    wait_ready(mesh);
    let node = mesh.node_of(&one, "spare-0");
    let exported = published(mesh, &one, &node, "spare-0");
    let bound = || {
        let pods = pods(mesh, &one);
        let pod = pods.into_iter().find(|pod| pod["name"] == "spare-0");
        match pod {
            Some(pod) if pod["state"] == "bound" => Ok(pod),
            instead => Err(format!("{instead:#?}")),
        }
    };
    let pod = eventually("the pod is bound", bound);
    assert_eq!(pod["identity"], exported["identity"], "{exported:#}");
    json::of(mesh.check_pod(&one, "spare-0"));

    // Pods that were bound before are bound again, from their files.
    let all = pods(mesh, &one);
    assert!(all.len() == 4 && all.iter().all(|pod| pod["state"] == "bound"), "{all:#?}");

    agents.iter().for_each(|agent| mesh.kill(agent));
    mesh.apply(&one, "spare", Some(0));
    agents.iter().for_each(|agent| mesh.start(agent));
    wait_ready(mesh);
    eventually("the pod that ended is forgotten", || {
        let pods = pods(mesh, &one);
        if pods.len() == 3 { Ok(()) } else { Err(format!("{pods:#?}")) }
    });

    // The control plane reports no pods. Bound pods stay bound, and a new pod waits.
    let (apiserver, etcd) = (Daemon::Apiserver(one.clone()), Daemon::Etcd(one.clone()));
    mesh.kill(&apiserver);
    mesh.kill(&etcd);
    agents.iter().for_each(|agent| mesh.kill(agent));
    agents.iter().for_each(|agent| mesh.start(agent));
    // The labels of an identity are known once the cluster is listed.
    let without_labels = |mut pod: Value| {
        pod["labels"].take();
        pod
    };
    let before = all.iter().filter(|pod| pod["name"] != "spare-0").cloned().map(without_labels);
    let before: Vec<Value> = before.collect();
    eventually("the pods have their identities", || {
        let pods: Vec<Value> = try_pods(mesh, &one)?.into_iter().map(without_labels).collect();
        if pods == before { Ok(()) } else { Err(format!("{pods:#?}, not {before:#?}")) }
    });
    mesh.start(&etcd);
    mesh.apply(&one, "spare", None);
    let (code, listed, _) = json::run(mesh.clustermesh(&["pod", "list", "--context", &one]));
    assert_eq!(code, 3, "{listed:#}");
    let node = mesh.node_of(&one, "spare-0");
    let problems = agent_status(mesh, &one, &node)["problems"].to_string();
    assert!(problems.contains("an identity: 1, first default/spare-0"), "{problems}");
    let (code, _, complaint) = json::run(mesh.check_pod(&one, "spare-0"));
    assert_eq!(code, 1);
    assert!(complaint.contains("clustermesh-cni CHECK: code 11"), "{complaint}");
    mesh.start(&apiserver);
    let pod = eventually("the pod is bound", bound);
    let exported = published(mesh, &one, &node, "spare-0");
    assert_eq!(pod["identity"], exported["identity"], "{exported:#}");

    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
    assert_eq!(report.clusters.len(), 2, "{one} and {other}: {report:#?}");
}

/// A pod starts even if its agent hangs. The agent binds it when it continues.
pub fn an_agent_that_hangs_keeps_no_pod_from_starting(mesh: &impl Mesh) {
    let cluster = &mesh.clusters()[0];
    let agent = Daemon::Agent(cluster.clone(), mesh.nodes(cluster)[0].clone());
    mesh.freeze(&agent);
    // The command returns while the agent still hangs.
    mesh.apply(cluster, CLIENT, None);
    mesh.thaw(&agent);
    eventually("the pod is bound", || {
        let pods = try_pods(mesh, cluster)?;
        let bound = pods.len() == 1 && pods[0]["state"] == "bound";
        if bound { Ok(()) } else { Err(format!("{pods:#?}")) }
    });
}

/// CHECK reports a missing address, a missing interface, and an attachment that the agent does not have.
pub fn check_notices_what_is_missing(mesh: &impl Mesh) {
    let cluster = &mesh.clusters()[0];
    mesh.apply(cluster, CLIENT, None);
    json::of(mesh.check_pod(cluster, CLIENT));
    let node = mesh.node_of(cluster, CLIENT);

    let ip = mesh.pod_ips(cluster, CLIENT).into_iter().find(|ip| ip.is_ipv4()).expect("IPv4");
    let address = |verb: &str, length: &str| {
        let net = format!("{ip}/{length}");
        let mut ip = mesh.in_pod(cluster, CLIENT, &["ip", "address", verb, &net, "dev", "eth0"]);
        assert!(ip.status().expect("ip runs").success());
    };
    address("delete", "24");
    // In the chain, another plugin reports it first; called alone, ours reports it.
    let (code, _, complaint) = json::run(mesh.check_pod(cluster, CLIENT));
    assert_eq!(code, 1);
    assert!(complaint.contains("ptp CHECK"), "{complaint}");
    let answer = by_hand(mesh, cluster, &node, "CHECK", &call(mesh, cluster, CLIENT));
    assert_eq!(answer.unwrap_err()["code"], 102);
    address("add", "24");
    let checked = by_hand(mesh, cluster, &node, "CHECK", &call(mesh, cluster, CLIENT));
    assert_eq!(checked, Ok(Value::Null));

    let mut other = call(mesh, cluster, CLIENT);
    other.interface = "eth7";
    assert_eq!(by_hand(mesh, cluster, &node, "CHECK", &other).unwrap_err()["code"], 101);

    // Another program removes the attachment's file.
    let file = &attachments(&mesh.pods_dir(cluster, &node))[0];
    let kept = fs::read(file).expect("the attachment");
    fs::remove_file(file).expect("it can be removed");
    let answer = by_hand(mesh, cluster, &node, "CHECK", &call(mesh, cluster, CLIENT));
    assert_eq!(answer.unwrap_err()["code"], 100);
    eventually("the agent sees it too", || {
        let pods = pods(mesh, cluster);
        if pods.is_empty() { Ok(()) } else { Err(format!("{pods:#?}")) }
    });
    fs::write(file, kept).expect("it can be written");
    eventually("and that it is back", || {
        match by_hand(mesh, cluster, &node, "CHECK", &call(mesh, cluster, CLIENT)) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    });
}

/// Calls by hand are answered as in the CNI specification: versions, errors with their codes, DEL without an attachment,
/// and ADD with a previous result.
pub fn calls_by_hand_are_answered(mesh: &impl Mesh) {
    let cluster = &mesh.clusters()[0];
    let node = &mesh.nodes(cluster)[0];
    mesh.apply(cluster, CLIENT, None);
    let good = call(mesh, cluster, CLIENT);
    let answer = by_hand(mesh, cluster, node, "VERSION", &good).expect("versions");
    assert_eq!(
        answer,
        json!({ "cniVersion": "1.0.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0"] })
    );

    // A second ADD has the same result as the first. The previous result is passed on, also its unknown fields.
    let mut again = good.clone();
    again.input["prevResult"]["somebody"] = json!({ "s": ["own"] });
    let answer = by_hand(mesh, cluster, node, "ADD", &again).expect("a result");
    assert_eq!(answer, again.input["prevResult"]);
    let pods = pods(mesh, cluster);
    assert!(pods.len() == 1 && pods[0]["state"] == "bound", "{pods:#?}");

    let bad = |change: Change<'_>| {
        let mut call = good.clone();
        change(&mut call);
        let error = by_hand(mesh, cluster, node, "ADD", &call).expect_err("an error");
        assert_eq!(error["cniVersion"], "1.0.0", "{error:#}");
        (error["code"].as_u64().expect("a code"), error["details"].to_string())
    };
    let cases: [(u64, &str, Change<'_>); 6] = [
        (1, "this plugin supports", &|call| call.input["cniVersion"] = json!("0.1.0")),
        (4, "is no container id", &|call| call.container = "../../../etc/passwd".into()),
        (4, "no K8S_POD_NAME", &|call| call.args = "K8S_POD_NAMESPACE=default".into()),
        (5, "/run/netns/nowhere", &|call| call.netns = "/run/netns/nowhere".into()),
        (6, "it is no object", &|call| call.input = json!([])),
        (7, "prevResult: it is missing", &|call| {
            call.input.as_object_mut().expect("an object").remove("prevResult");
        }),
    ];
    for (code, words, change) in cases {
        let (found, details) = bad(change);
        assert_eq!(found, code, "{details}");
        assert!(details.contains(words), "{details}");
    }

    // DEL succeeds for an attachment that never existed.
    let mut nothing = good.clone();
    nothing.container = "never".into();
    nothing.netns = String::new();
    nothing.args = String::new();
    nothing.input.as_object_mut().expect("an object").remove("prevResult");
    for _ in 0..2 {
        assert_eq!(by_hand(mesh, cluster, node, "DEL", &nothing), Ok(Value::Null));
    }
    assert_eq!(attachments(&mesh.pods_dir(cluster, node)).len(), 1, "the client's stays");
}

/// A change that makes a call invalid.
type Change<'a> = &'a dyn Fn(&mut Call);

/// A call of our plugin.
#[derive(Clone)]
struct Call {
    container: String,
    netns: String,
    interface: &'static str,
    args: String,
    input: Value,
}

/// The call that a runtime would make for an attached pod.
fn call(mesh: &impl Mesh, cluster: &str, pod: &str) -> Call {
    let node = mesh.node_of(cluster, pod);
    let folder = mesh.pods_dir(cluster, &node);
    let result = mesh.cni_result(cluster, pod);
    let interfaces = result["interfaces"].as_array().expect("interfaces").clone();
    let netns = interfaces.iter().find_map(|found| found["sandbox"].as_str()).expect("a sandbox");
    let container = Path::new(netns).file_name().expect("a name").to_string_lossy().into_owned();
    Call {
        container,
        netns: netns.into(),
        interface: "eth0",
        args: format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod}"),
        input: json!({
            "cniVersion": "1.0.0", "name": "pods", "type": "clustermesh-cni", "prevResult": result,
            "agentSocket": folder.with_file_name("agent.sock"), "podsDir": folder,
        }),
    }
}

/// Calls our plugin on a node. Returns its result, or its error.
fn by_hand(
    mesh: &impl Mesh,
    cluster: &str,
    node: &str,
    verb: &str,
    call: &Call,
) -> Result<Value, Value> {
    let mut plugin = mesh.on_node(cluster, node, &["clustermesh-cni"]);
    plugin.envs([
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", &call.container),
        ("CNI_NETNS", &call.netns),
        ("CNI_IFNAME", call.interface),
        ("CNI_ARGS", &call.args),
        ("CNI_PATH", "/usr/lib/cni"),
    ]);
    plugin.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = plugin.spawn().expect("the plugin starts");
    let mut stdin = child.stdin.take().expect("its input");
    stdin.write_all(call.input.to_string().as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let answer = match output.stdout.as_slice() {
        [] => Value::Null,
        text => serde_json::from_slice(text).expect("JSON"),
    };
    if output.status.success() { Ok(answer) } else { Err(answer) }
}

/// The pods that the agents of a cluster list.
fn pods(mesh: &impl Mesh, cluster: &str) -> Vec<Value> {
    try_pods(mesh, cluster).unwrap_or_else(|complaint| panic!("{complaint}"))
}

/// The same, if the agents may still be starting.
fn try_pods(mesh: &impl Mesh, cluster: &str) -> Result<Vec<Value>, String> {
    let list = mesh.clustermesh(&["pod", "list", "--context", cluster]);
    let (_, listed, complaint) = json::run(list);
    listed["pods"].as_array().cloned().ok_or_else(|| format!("{listed:#} {complaint}"))
}

/// The record of a pod that the apiserver published for its node.
fn published(mesh: &impl Mesh, cluster: &str, node: &str, pod: &str) -> Value {
    value(mesh, cluster, &format!("clustermesh/local/v1/pods/{node}/default/{pod}"))
}

/// The value of a key, read by `etcdctl`.
fn value(mesh: &impl Mesh, cluster: &str, key: &str) -> Value {
    let text = etcdctl::run(mesh, cluster, &["get", "--print-value-only", "--", key]);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{key}: {error} in {text:?}"))
}

/// The files of attachments.
fn attachments(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let files = entries.map(|entry| entry.expect("a file").path());
    files.filter(|path| path.extension().is_some_and(|e| e == "json")).collect()
}
