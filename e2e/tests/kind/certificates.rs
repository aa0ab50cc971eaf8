//! Certificates are renewed, and the CA is exchanged, while everything runs.

use std::{
    collections::BTreeSet,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use mesh_certs::details;
use mesh_e2e::{
    Kind, Mesh, Traffic,
    echo_service::{CLIENT, ECHO, client_ips, two_clusters_with_echo, wait_for_backends},
    json,
    load::Assert as _,
    mesh::{output, wait_ready, within},
};

use super::PATIENCE;

/// How long the scenario runs: longer than a certificate is valid.
const WATCHED: Duration = Duration::from_secs(200);
const SYSTEM: [&str; 2] = ["--namespace", "clustermesh-system"];

/// The lifetime in the pod template of the apiserver. Dropping it sets what the manifest has.
struct Lifetime<'a>(&'a Kind);

impl<'a> Lifetime<'a> {
    fn new(mesh: &'a Kind, lifetime: &str) -> Self {
        set(mesh, lifetime);
        Self(mesh)
    }
}

impl Drop for Lifetime<'_> {
    fn drop(&mut self) {
        set(self.0, "90d");
    }
}

fn set(mesh: &Kind, lifetime: &str) {
    let env = |container: &str| {
        format!(
            r#"{{"name":"{container}","env":[{{"name":"CLUSTERMESH_CERTIFICATE_LIFETIME","value":"{lifetime}"}}]}}"#
        )
    };
    let patch = format!(
        r#"{{"spec":{{"template":{{"spec":{{"initContainers":[{}],"containers":[{}]}}}}}}}}"#,
        env("init"),
        env("apiserver")
    );
    let deployment = [&["deployment/clustermesh-apiserver"][..], &SYSTEM].concat();
    mesh.kubectl_done("a", &[&["patch"], &deployment[..], &["--patch", &patch]].concat());
    let status = ["rollout", "status", "--timeout", "120s"];
    mesh.kubectl_done("a", &[&status[..], &deployment].concat());
}

/// The end of the certificate that the etcd of a shows.
fn end_of_server(mesh: &Kind) -> String {
    let node = &mesh.nodes("b")[0];
    let ip = mesh.node_ips("a", &mesh.nodes("a")[0])[0];
    let ask = format!(
        "openssl s_client -connect {ip}:32379 </dev/null 2>/dev/null | openssl x509 -noout -enddate"
    );
    output(mesh.on_node("b", node, &["sh", "-c", &ask])).unwrap_or_else(|error| error)
}

/// Server, administrator and local certificates live for three minutes. For longer than that, under load, no container is
/// started anew, agents of both clusters stay connected, and no request fails.
#[test]
fn certificates_of_three_minutes() {
    let mesh = Kind::up(&["a", "b"]);
    let _lifetime = Lifetime::new(&mesh, "3m");
    let (one, _) = two_clusters_with_echo(&mesh);
    let restarts = mesh.restarts(&one);
    let secret = || {
        let secrets = mesh.objects(&one, "secrets", SYSTEM[1]);
        let local = secrets.iter().find(|found| found["metadata"]["name"] == "clustermesh-local");
        local.expect("the Secret of the agents")["data"].to_string()
    };
    let traffic = Traffic::start(&mesh, &one, CLIENT, ECHO);
    let began = Instant::now();
    let (mut servers, mut locals) = (BTreeSet::new(), BTreeSet::new());
    while began.elapsed() < WATCHED {
        servers.insert(end_of_server(&mesh));
        locals.insert(secret());
        thread::sleep(Duration::from_secs(5));
    }
    println!("{servers:?}");
    // The first, and one after each half of a life.
    assert!(servers.len() >= 3, "{servers:?}");
    assert!(locals.len() >= 3, "{} Secrets", locals.len());
    wait_ready(&mesh);
    assert_eq!(mesh.restarts(&one), restarts, "nothing is started anew");
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(&mesh, &one));
}

/// The subjects of the CAs in an entry of a Secret.
fn cas(mesh: &Kind, cluster: &str, secret: &str, entry: &str) -> Vec<String> {
    let template = format!(r#"go-template={{{{index .data "{entry}" | base64decode}}}}"#);
    let get = [&["get", "secret", secret, "--output", &template][..], &SYSTEM].concat();
    let text = mesh.kubectl_done(cluster, &get);
    let all = details(&text).unwrap_or_else(|error| panic!("{secret}: {entry}: {error}"));
    all.into_iter().map(|found| found.subject).collect()
}

/// How often containers of this name were started again.
fn restarts_of(mesh: &Kind, cluster: &str, container: &str) -> u64 {
    let all = mesh.restarts(cluster).into_iter();
    all.filter(|(name, _)| name.ends_with(container)).map(|(_, number)| number).sum()
}

/// The CA of a cluster is exchanged under load. The command is killed on the way, and goes on. The old CA is kept as long as
/// something needs it, and is then trusted nowhere. Only the etcd is started again, and no request fails.
#[test]
fn a_ca_is_exchanged() {
    let mesh = Kind::up(&["a", "b"]);
    let (one, other) = two_clusters_with_echo(&mesh);
    let rotate = |flags: &[&str]| {
        mesh.clustermesh(&[&["certs", "rotate", "--context", &one, "--ca"][..], flags].concat())
    };
    let places = [
        (one.as_str(), "clustermesh-ca", "ca.crt"),
        (&one, "clustermesh-local", "ca.crt"),
        (&other, "clustermesh-peers", "a.etcd-client-ca.crt"),
    ];
    let trusted = || places.map(|(cluster, secret, entry)| cas(&mesh, cluster, secret, entry));
    let before = trusted();
    assert!(before.iter().all(|cas| cas.len() == 1 && *cas == before[0]), "{before:?}");
    let planned = json::of(rotate(&["--dry-run"]));
    assert!(planned["changes"].as_array().is_some_and(|changes| changes.len() > 5), "{planned:#}");
    assert_eq!(trusted(), before, "a dry run changes nothing");

    let others = || {
        ["apiserver", "agent"].map(|container| restarts_of(&mesh, &one, &format!("/{container}")))
    };
    let (restarts, etcd) = (others(), restarts_of(&mesh, &one, "/etcd"));
    let traffic = Traffic::start(&mesh, &one, CLIENT, ECHO);
    let mut killed = rotate(&[]).stdout(Stdio::null()).spawn().expect("the command runs");
    within(PATIENCE, "the new CA is trusted beside the old one", || {
        let found = cas(&mesh, &one, "clustermesh-ca", "ca.crt");
        if found.len() == 2 { Ok(()) } else { Err(format!("{found:?}")) }
    });
    killed.kill().expect("it runs");
    killed.wait().expect("it ends");
    let (code, answer, complaint) = json::run(rotate(&["--finish"]));
    assert_ne!(code, 0, "the old CA is still needed");
    let says = format!("{answer} {complaint}");
    assert!(says.contains("the old CA is still needed"), "{says}");

    let rotated = json::of(rotate(&[]));
    assert_eq!(rotated["pending"], serde_json::json!([]), "{rotated:#}");
    let both = trusted();
    assert!(both.iter().all(|cas| cas.len() == 2 && cas[0] == before[0][0]), "{both:?}");
    wait_ready(&mesh);
    let again = json::of(rotate(&[]));
    assert_eq!(again["changes"], serde_json::json!([]), "{again:#}");

    json::of(rotate(&["--finish"]));
    let after = trusted();
    assert!(after.iter().all(|cas| *cas == both[0][1..]), "{after:?}");
    let node = &mesh.nodes(&other)[0];
    let ip = mesh.node_ips(&one, &mesh.nodes(&one)[0])[0];
    let ask = format!("openssl s_client -connect {ip}:32379 </dev/null 2>/dev/null; true");
    let shown = output(mesh.on_node(&other, node, &["sh", "-c", &ask])).unwrap_or_else(|text| text);
    // `openssl` writes "CN = …".
    let name = |subject: &str| subject.trim_start_matches("CN=").to_owned();
    let says = |subject: &str| shown.lines().any(|line| line.ends_with(&name(subject)));
    assert!(says(&after[0][0]) && !says(&before[0][0]), "{shown}");
    wait_ready(&mesh);
    // What happens in one is seen in the other.
    mesh.apply(&one, "echo", Some(3));
    wait_for_backends(&mesh, &[&one, &other]);
    assert_eq!(others(), restarts, "only the etcd is started again");
    assert!(restarts_of(&mesh, &one, "/etcd") > etcd);
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(&mesh, &one));
}
