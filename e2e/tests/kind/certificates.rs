//! Certificates with lifetimes of three minutes are renewed while everything runs.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use mesh_e2e::{
    Kind, Mesh, Traffic,
    echo_service::{CLIENT, ECHO, client_ips, two_clusters_with_echo},
    load::Assert as _,
    mesh::{output, wait_ready},
};

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
