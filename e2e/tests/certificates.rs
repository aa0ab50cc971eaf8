//! Certificates that are rotated, expire, or are signed by another CA: under load, and without a failed request. Needs
//! root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "all of this is test code"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant, SystemTime},
};

use mesh_certs::{Ca, ClusterPki, Profile, details};
use mesh_e2e::{
    Daemon, Mesh, Netns, Traffic,
    echo_service::{CLIENT, ECHO, two_clusters_with_echo, wait_for_backends},
    json, kernel,
    mesh::{daemons, wait_ready},
    netns::{binary, process},
};
use serde_json::Value;

/// A lab with traffic from a client in the first cluster to the service that both clusters have.
struct Scene {
    mesh: Netns,
    lab: String,
    one: String,
    other: String,
    traffic: Traffic,
}

/// How long a daemon may take to reach a state: it pauses for up to twenty seconds between attempts.
const PATIENCE: Duration = Duration::from_secs(90);
const DAY: Duration = Duration::from_secs(24 * 3600);

impl Scene {
    fn new(lab: &str) -> Self {
        let mesh = Netns::up(lab);
        let (one, other) = two_clusters_with_echo(&mesh);
        let traffic = Traffic::start(&mesh, &one, CLIENT, ECHO);
        Self { mesh, lab: lab.into(), one, other, traffic }
    }

    /// Ends the traffic. The mesh must be ready and program changes, and every request must have been answered.
    fn end(self) {
        wait_ready(&self.mesh);
        self.follows_changes();
        let report = self.traffic.stop_unharmed();
        assert_eq!(report.clusters.len(), 2, "{report:#?}");
    }

    /// Waits until what is applied in a cluster is in the kernel of every node of both.
    fn follows_changes(&self) {
        for cluster in [&self.one, &self.other] {
            self.mesh.apply(cluster, "echo", Some(3));
            wait_for_backends(&self.mesh, &[&self.one, &self.other]);
            self.mesh.apply(cluster, "echo", None);
            wait_for_backends(&self.mesh, &[&self.one, &self.other]);
        }
    }

    fn rotate(&self, cluster: &str, flags: &[&str]) -> (i32, Value, String) {
        let command = [&["certs", "rotate", "--context", cluster], flags].concat();
        json::run(self.mesh.clustermesh(&command))
    }

    /// Rotates certificates, which must leave nothing pending, and returns the changes.
    fn rotated(&self, cluster: &str, flags: &[&str]) -> Vec<Value> {
        let (code, printed, complaints) = self.rotate(cluster, flags);
        assert_eq!(code, 0, "{printed:#} {complaints}");
        assert_eq!(printed["pending"], serde_json::json!([]));
        printed["changes"].as_array().expect("changes").clone()
    }

    /// The shell command that restarts a cluster's etcd.
    fn restart_etcd(&self, cluster: &str) -> String {
        let lab = |verb: &str| {
            format!("{} lab {verb} --lab {} {cluster}/etcd", binary().display(), self.lab)
        };
        format!("{} && {}", lab("stop"), lab("start"))
    }

    fn pki(&self, cluster: &str) -> PathBuf {
        self.mesh.peer_folder(cluster).parent().expect("a cluster directory").join("pki")
    }

    fn ca(&self, cluster: &str) -> Ca {
        ClusterPki::new(&self.pki(cluster)).ca(SystemTime::now()).expect("a CA")
    }

    fn status(&self, cluster: &str) -> Value {
        let (_, status, _) = json::run(self.mesh.clustermesh(&["status", "--context", cluster]));
        status["clusters"][0].clone()
    }

    /// The problems of each agent of a cluster, and its status of a peer.
    fn seen(&self, cluster: &str, peer: &str) -> Vec<(Value, Value)> {
        let status = self.status(cluster);
        let agents = status["agents"].as_array().expect("agents").clone();
        let peer_of = |agent: &Value| {
            let peers = agent["peers"].as_array().cloned().unwrap_or_default();
            peers.into_iter().find(|it| it["name"] == peer).unwrap_or_default()
        };
        agents.into_iter().map(|agent| (agent["problems"].clone(), peer_of(&agent))).collect()
    }

    /// Waits until each agent of a cluster reports that a phase of its connection to a peer has failed, for a reason with
    /// all these words.
    fn wait_failed(&self, cluster: &str, peer: &str, phase: &str, words: &[&str]) {
        patiently(&format!("{cluster} reports why it is not connected to {peer}"), || {
            for (_, seen) in self.seen(cluster, peer) {
                let phases = seen["ladder"].as_array().cloned().unwrap_or_default();
                let step = phases.iter().find(|step| step["name"] == phase).cloned();
                let step = step.unwrap_or_default();
                let detail = step["detail"].as_str().unwrap_or_default();
                if step["state"] != "failed" || !words.iter().all(|word| detail.contains(word)) {
                    return Err(format!("{seen:#}"));
                }
            }
            Ok(())
        });
    }

    /// Waits until each agent of a cluster is connected to a peer, and reports with all these words that it does not use
    /// new credentials.
    fn wait_unused(&self, cluster: &str, peer: &str, words: &[&str]) {
        patiently(
            &format!("{cluster} reports why the new credentials for {peer} are not used"),
            || {
                for (problems, seen) in self.seen(cluster, peer) {
                    let has = |problem: &Value| {
                        let text = problem.as_str().unwrap_or_default();
                        text.starts_with(&format!("{peer}: new credentials are not used"))
                            && words.iter().all(|word| text.contains(word))
                    };
                    let reported = problems.as_array().is_some_and(|all| all.iter().any(has));
                    if !reported || seen["ready"] != true {
                        return Err(format!("{problems:#} {seen:#}"));
                    }
                }
                Ok(())
            },
        );
    }

    /// Waits until no agent of a cluster reports a problem.
    fn wait_without_problems(&self, cluster: &str) {
        patiently(&format!("{cluster} reports no problem"), || {
            let status = self.status(cluster);
            let agents = status["agents"].as_array().expect("agents");
            let no_problems = |agent: &Value| agent["problems"] == serde_json::json!([]);
            if agents.iter().all(no_problems) { Ok(()) } else { Err(format!("{status:#}")) }
        });
    }

    /// How often each agent of a cluster lost its connection to a peer.
    fn reconnects(&self, cluster: &str, peer: &str) -> Vec<u64> {
        let seen = self.seen(cluster, peer).into_iter();
        seen.map(|(_, seen)| seen["reconnects"].as_u64().expect("a number")).collect()
    }

    /// The services in the kernel of each node.
    fn kernels(&self) -> Vec<kernel::Services> {
        let clusters = self.mesh.clusters().into_iter();
        let nodes =
            clusters.flat_map(|c| self.mesh.nodes(&c).into_iter().map(move |n| (c.clone(), n)));
        nodes.map(|(cluster, node)| kernel::services(&self.mesh.pins(&cluster, &node))).collect()
    }

    /// `etcdctl` on the other cluster's first node, with these credentials for an etcd.
    fn etcdctl(&self, cluster: &str, files: &Files, command: &[&str]) -> Result<String, String> {
        let etcd = self.mesh.node_ips(cluster, &self.mesh.nodes(cluster)[0])[0];
        let words = [
            format!("--endpoints=https://{etcd}:2379"),
            format!("--cacert={}", files.ca.display()),
            format!("--cert={}", files.certificate.display()),
            format!("--key={}", files.key.display()),
            "--dial-timeout=3s".into(),
            "--command-timeout=3s".into(),
        ];
        let words: Vec<&str> =
            ["etcdctl"].into_iter().chain(words.iter().map(String::as_str)).collect();
        let node = self.mesh.nodes(&self.other)[0].clone();
        let mut call = self.mesh.on_node(&self.other, &node, &[&words[..], command].concat());
        let output = call.env("ETCDCTL_API", "3").output().expect("etcdctl runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

/// The files of credentials for an etcd.
struct Files {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

/// Waits longer than [`mesh_e2e::mesh::eventually`].
fn patiently(what: &str, mut look: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(instead) = look() {
        assert!(Instant::now() < deadline, "{what}: {instead}");
        thread::sleep(Duration::from_millis(100));
    }
}

fn serial(path: &Path) -> String {
    details(&fs::read_to_string(path).expect("a file")).expect("certificates")[0].serial.clone()
}

#[test]
fn server_and_client_certificates_are_rotated() {
    let scene = Scene::new("e2ecrotate");
    let files =
        ["server", "admin", "local"].map(|n| scene.pki(&scene.one).join(format!("{n}.crt")));
    let peer = scene.mesh.peer_folder(&scene.other).join(format!("{}.etcd-client.crt", scene.one));
    let serials = || files.iter().chain([&peer]).map(|path| serial(path)).collect::<Vec<_>>();
    let before = serials();
    assert_eq!(
        scene.rotated(&scene.one, &["--server", "--clients"]).len(),
        0,
        "all certificates are young"
    );
    assert_eq!(
        scene.rotated(&scene.one, &["--server", "--clients", "--min-age", "0", "--dry-run"]).len(),
        4
    );
    assert_eq!(serials(), before, "--dry-run changes nothing");

    let reconnects = scene.reconnects(&scene.other, &scene.one);
    assert_eq!(scene.rotated(&scene.one, &["--server", "--min-age", "0"]).len(), 1);
    wait_ready(&scene.mesh);
    assert_eq!(
        scene.reconnects(&scene.other, &scene.one),
        reconnects,
        "no client has to reconnect"
    );
    // The etcd uses the new certificate for clients that connect now, without a restart.
    let etcd = scene.mesh.node_ips(&scene.one, &scene.mesh.nodes(&scene.one)[0])[0];
    let show = format!(
        "echo | openssl s_client -connect {etcd}:2379 2>/dev/null | openssl x509 -noout -serial"
    );
    let node = scene.mesh.nodes(&scene.other)[0].clone();
    let shown = scene.mesh.on_node(&scene.other, &node, &["sh", "-c", &show]).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).to_lowercase();
    let wanted = serial(&files[0]).replace(':', "");
    let wanted = wanted.trim_start_matches('0');
    assert!(shown.contains(wanted), "{shown}, not {wanted}");

    assert_eq!(scene.rotated(&scene.one, &["--clients", "--min-age", "0"]).len(), 3);
    patiently("every client has connected with its new certificate", || {
        let now = scene.reconnects(&scene.other, &scene.one);
        let all = now.iter().zip(&reconnects).all(|(now, before)| now > before);
        if all { Ok(()) } else { Err(format!("{now:?}")) }
    });
    assert!(serials().iter().zip(&before).all(|(now, before)| now != before));
    scene.wait_without_problems(&scene.other);
    scene.end();
}

#[test]
fn a_ca_is_rotated() {
    let scene = Scene::new("e2ecauth");
    let (one, pki) = (scene.one.clone(), scene.pki(&scene.one));
    let folder = tempfile::tempdir().unwrap();
    let old = |name: &str| folder.path().join(name);
    for file in ["ca.crt", "admin.crt", "admin.key"] {
        fs::copy(pki.join(file), old(file)).unwrap();
    }
    let as_before =
        Files { ca: old("ca.crt"), certificate: old("admin.crt"), key: old("admin.key") };
    let list = ["get", "cilium/.heartbeat", "--keys-only"];
    scene.etcdctl(&one, &as_before, &list).expect("the apiserver's certificate is accepted");

    // Without a command that restarts the etcd, the rotation stops at the restart and says so. Repeating it gives the same
    // answer.
    for _ in 0..2 {
        let (code, printed, _) = scene.rotate(&one, &["--ca"]);
        assert_eq!(code, 3, "{printed:#}");
        let pending = printed["pending"][0].as_str().expect("a pending step");
        assert!(
            pending.contains("must be restarted") && pending.contains("--restart-etcd"),
            "{pending}"
        );
    }
    let (code, _, refused) = scene.rotate(&one, &["--ca", "--finish"]);
    assert!(code == 1 && refused.contains("the old CA still signs"), "{refused}");
    scene.wait_without_problems(&scene.other);

    let restart = scene.restart_etcd(&one);
    let changes = scene.rotated(&one, &["--ca", "--restart-etcd", &restart]);
    assert!(changes.contains(&"restart the etcd".into()), "{changes:?}");
    wait_ready(&scene.mesh);
    assert_eq!(
        scene.rotated(&one, &["--ca", "--restart-etcd", &restart]).len(),
        0,
        "it is done already"
    );
    scene.follows_changes();
    scene.wait_without_problems(&scene.one);
    scene.wait_without_problems(&scene.other);

    // A user whose certificate is still by the old CA is named.
    let admin = ClusterPki::new(&pki);
    let [certificate, key] = [admin.certificate("local"), admin.key("local")];
    let kept = [&certificate, &key].map(|path| fs::read(path).unwrap());
    fs::copy(old("admin.crt"), &certificate).unwrap();
    fs::copy(old("admin.key"), &key).unwrap();
    let (code, _, refused) = scene.rotate(&one, &["--ca", "--finish"]);
    assert!(code == 1 && refused.contains("local.crt is signed by the old CA"), "{refused}");
    fs::write(&key, &kept[1]).unwrap();
    fs::write(&certificate, &kept[0]).unwrap();

    scene.rotated(&one, &["--ca", "--finish", "--restart-etcd", &restart]);
    wait_ready(&scene.mesh);
    let refused = scene.etcdctl(&one, &as_before, &list).expect_err("the old CA is gone");
    assert!(!refused.contains("permission"), "{refused}");
    let now = Files {
        ca: pki.join("ca.crt"),
        certificate: pki.join("admin.crt"),
        key: pki.join("admin.key"),
    };
    scene.etcdctl(&one, &now, &list).expect("a certificate by the new CA");
    // Every daemon can start with the files as they are.
    for daemon in daemons(&scene.mesh) {
        scene.mesh.kill(&daemon);
        scene.mesh.start(&daemon);
    }
    scene.end();
}

#[test]
fn a_certificate_expires_while_its_connection_is_open() {
    let scene = Scene::new("e2ecexpiry");
    let (one, other) = (scene.one.clone(), scene.other.clone());
    let before = scene.kernels();
    scene.rotated(&one, &["--clients", "--min-age", "0", "--lifetime", "15s"]);
    scene.wait_failed(&other, &one, "tls", &[&format!("CN=remote-{other}"), "is valid from"]);
    scene.wait_failed(&one, &one, "tls", &[&format!("CN=local-{one}"), "is valid from"]);
    patiently("the apiserver reports its certificate", || {
        let problems = scene.status(&one)["apiserver"]["problems"].to_string();
        let named = problems.contains(&format!("CN=admin-{one}")) && problems.contains("tls");
        if named { Ok(()) } else { Err(problems) }
    });
    // The etcd has no connections left.
    let node = scene.mesh.nodes(&one)[0].clone();
    patiently("no connection outlives its certificate", || {
        let sockets = ["ss", "-Htn", "state", "established", "sport", "=", ":2379"];
        let output = scene.mesh.on_node(&one, &node, &sockets).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if text.trim().is_empty() { Ok(()) } else { Err(text) }
    });
    assert_eq!(scene.kernels(), before, "the kernels keep their state");
    // An apiserver and an agent that start now report the reason, and wait.
    for daemon in [
        Daemon::Apiserver(one.clone()),
        Daemon::Agent(other.clone(), scene.mesh.nodes(&other)[0].clone()),
    ] {
        scene.mesh.kill(&daemon);
        scene.mesh.start(&daemon);
    }
    scene.wait_failed(&other, &one, "tls", &[&format!("CN=remote-{other}")]);
    assert_eq!(scene.kernels(), before, "the kernels keep their state");
    scene.rotated(&one, &["--clients", "--min-age", "0"]);
    wait_ready(&scene.mesh);
    scene.wait_without_problems(&other);
    scene.end();
}

/// Files with wrong certificates or with none: the daemon goes on with the credentials that it has, and its status names
/// the files.
#[test]
fn bad_new_files_leave_the_old_credentials_in_use() {
    let scene = Scene::new("e2ecbadfile");
    let (one, other) = (scene.one.clone(), scene.other.clone());
    let peers = scene.mesh.peer_folder(&other);
    let file = |ending: &str| peers.join(format!("{one}.etcd-client{ending}"));
    let good =
        [".crt", ".key", "-ca.crt"].map(|ending| (file(ending), fs::read(file(ending)).unwrap()));
    let restore = || {
        for (path, content) in &good {
            fs::write(path, content).unwrap();
        }
        scene.wait_without_problems(&other);
    };
    let reconnects = scene.reconnects(&other, &one);
    let now = SystemTime::now();
    let (stranger, _) = Ca::create(&one, now, DAY).unwrap();
    let ca = scene.ca(&one);
    let user = |user: &str| Profile::Client { user: user.into() };
    let peer_user = format!("remote-{other}");

    println!("no certificate");
    fs::write(file(".crt"), "-----BEGIN").unwrap();
    scene.wait_unused(&other, &one, &[&file(".crt").display().to_string(), "no certificate in it"]);
    restore();

    for (issuer, user_name, begins, words) in [
        // The etcd does not trust this CA, whatever the name in the certificate is.
        (&stranger, "root", now, ["CN=root", "authenticated"]),
        (&stranger, peer_user.as_str(), now, [peer_user.as_str(), "authenticated"]),
        (&ca, peer_user.as_str(), now - 2 * DAY, [peer_user.as_str(), "is valid from"]),
        // The right CA, but the etcd has no such user.
        (&ca, "remote-zz", now, ["CN=remote-zz", "authenticated"]),
    ] {
        println!("{user_name}, {words:?}");
        let issued = issuer.issue(&user(user_name), begins, DAY).unwrap();
        fs::write(file(".key"), &issued.key).unwrap();
        fs::write(file(".crt"), &issued.certificate).unwrap();
        scene.wait_unused(&other, &one, &words);
        restore();
    }

    println!("the wrong CA for the etcd");
    fs::write(file("-ca.crt"), stranger.certificate()).unwrap();
    scene.wait_unused(&other, &one, &["tls", "by a CA that is not trusted for it"]);
    restore();

    println!("a peer file that names missing credentials");
    let peer_file = peers.join(&one);
    let text = fs::read_to_string(&peer_file).unwrap();
    fs::write(&peer_file, text.replace(".etcd-client.crt", ".elsewhere.crt")).unwrap();
    scene.wait_unused(&other, &one, &["elsewhere.crt: cannot be read"]);
    fs::write(&peer_file, &text).unwrap();
    scene.wait_without_problems(&other);
    // Not asserted, because each restored file is a new one again, for which an agent may connect again.
    println!("{reconnects:?}, then {:?}", scene.reconnects(&other, &one));

    println!("the apiserver's credentials");
    let admin = ClusterPki::new(&scene.pki(&one));
    let kept = [admin.certificate("admin"), admin.key("admin")]
        .map(|path| (path.clone(), fs::read(path).unwrap()));
    let issued = stranger.issue(&user("root"), now, DAY).unwrap();
    admin.write("admin", &issued).unwrap();
    patiently("the apiserver reports why its new credentials are not used", || {
        let apiserver = scene.status(&one)["apiserver"].clone();
        let problems = apiserver["problems"].to_string();
        let named = problems.contains("new credentials for the etcd are not used")
            && problems.contains("CN=root");
        if named && apiserver["ready"] == true { Ok(()) } else { Err(format!("{apiserver:#}")) }
    });
    for (path, content) in kept {
        fs::write(path, content).unwrap();
    }
    scene.end();
}

#[test]
fn a_rebuilt_cluster_replaces_the_previous_one() {
    let scene = Scene::new("e2ecreplace");
    let (one, other) = (scene.one.clone(), scene.other.clone());
    let lab = |verb: &str, more: &[&str]| {
        let mut command = scene.mesh.lab(verb);
        command.args(more);
        json::of(command);
    };
    let directory = scene.mesh.peer_folder(&other).parent().unwrap().to_owned();
    let before = scene.kernels();
    let nodes = scene.mesh.nodes(&other);
    let control: Vec<String> = [format!("{other}/etcd"), format!("{other}/apiserver")].into();
    let control: Vec<&str> = control.iter().map(String::as_str).collect();
    lab("stop", &control);
    for node in &nodes {
        lab("stop", &[&format!("{other}/{node}/agent")]);
    }
    // The pods of the other cluster run on. Its control plane starts without data, with another CA, identity and history.
    for gone in ["pki", "peers"] {
        fs::remove_dir_all(directory.join(gone)).unwrap();
    }
    fs::remove_dir_all(directory.join("state/etcd")).unwrap();
    fs::remove_file(directory.join("state/identities.journal")).unwrap();
    fs::remove_file(directory.join("users.yaml")).unwrap();
    fs::create_dir_all(directory.join("peers")).unwrap();
    let addresses: Vec<_> =
        nodes.iter().flat_map(|node| scene.mesh.node_ips(&other, node)).collect();
    ClusterPki::new(&directory.join("pki"))
        .create(&other, "clustermesh", &addresses, Ca::ISSUED_LIFETIME)
        .unwrap();
    lab("start", &control);
    patiently("the rebuilt cluster is up", || {
        let ready = scene.status(&other)["apiserver"]["ready"].clone();
        if ready == true { Ok(()) } else { Err(ready.to_string()) }
    });

    let pair = ["connect", "--context", &one, "--destination-context", &other];
    let (code, _, refused) = json::run(scene.mesh.clustermesh(&pair));
    assert!(code == 1 && refused.contains("--replace"), "{refused}");
    scene.wait_failed(&one, &other, "tls", &["by a CA that is not trusted for it"]);
    let first = &scene.kernels()[..scene.mesh.nodes(&one).len()];
    assert_eq!(first, &before[..first.len()], "the kernels keep the state of the old cluster");

    json::of(scene.mesh.clustermesh(&[&pair[..], &["--replace"]].concat()));
    // Not earlier: an agent without a peer file removes the peer, and with it the routes to its pods.
    for node in &nodes {
        lab("start", &[&format!("{other}/{node}/agent")]);
    }
    wait_ready(&scene.mesh);
    wait_for_backends(&scene.mesh, &[&one, &other]);
    assert_eq!(json::of(scene.mesh.clustermesh(&pair))["changes"], serde_json::json!([]));
    scene.wait_without_problems(&one);
    scene.end();
}

/// The clock of our daemons jumps two years ahead, past the end of every certificate, and back. The clock of etcd does not
/// (`e2e/unavailable.toml`).
#[test]
fn the_clock_jumps() {
    let scene = Scene::new("e2ecclock");
    let (one, other) = (scene.one.clone(), scene.other.clone());
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    let step = |to: &str| replace(&clock, to);
    step("+0");
    let library = library();
    let variables = [
        format!("LD_PRELOAD={library}"),
        format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()),
        // Only the wall clock jumps; timers use the monotonic clock.
        "FAKETIME_DONT_FAKE_MONOTONIC=1".into(),
        "FAKETIME_CACHE_DURATION=1".into(),
        "NO_FAKE_STAT=1".into(),
    ];
    let restart = |daemon: &Daemon| {
        if matches!(daemon, Daemon::Etcd(_)) {
            return;
        }
        scene.mesh.kill(daemon);
        let mut start = scene.mesh.lab("start");
        start.arg(process(daemon));
        for variable in &variables {
            start.args(["--env", variable]);
        }
        json::of(start);
        clean_up(&scene.mesh);
    };
    daemons(&scene.mesh).iter().for_each(restart);
    wait_ready(&scene.mesh);
    let before = scene.kernels();

    step("+730d");
    let node = scene.mesh.nodes(&other)[0].clone();
    for restarted in
        [vec![], vec![Daemon::Agent(other.clone(), node), Daemon::Apiserver(one.clone())]]
    {
        restarted.iter().for_each(restart);
        for (cluster, peer, user) in [
            (&one, &other, format!("CN=remote-{one}")),
            (&other, &one, format!("CN=remote-{other}")),
            (&one, &one, format!("CN=local-{one}")),
        ] {
            scene.wait_failed(cluster, peer, "tls", &[&user, "is valid from"]);
        }
        patiently("the apiserver reports its certificate", || {
            let problems = scene.status(&one)["apiserver"]["problems"].to_string();
            let named = problems.contains(&format!("CN=admin-{one}"));
            if named { Ok(()) } else { Err(problems) }
        });
        assert_eq!(scene.kernels(), before, "the kernels keep their state");
    }
    step("+0");
    wait_ready(&scene.mesh);
    scene.wait_without_problems(&one);
    // Before the start of every certificate's validity: open connections go on.
    step("-730d");
    scene.follows_changes();
    step("+0");
    scene.wait_without_problems(&other);
    scene.end();
}

/// Removes the shared memory that libfaketime leaves behind when a process of the lab is killed.
fn clean_up(mesh: &Netns) {
    for process in mesh.state().processes {
        for name in ["faketime_shm_", "sem.faketime_sem_"] {
            let _ = fs::remove_file(format!("/dev/shm/{name}{}", process.pid));
        }
    }
}

/// The path of libfaketime in Debian.
fn library() -> String {
    let list = Command::new("dpkg").args(["-L", "libfaketime"]).output().expect("dpkg");
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let found = list.lines().find(|path| path.ends_with("libfaketimeMT.so.1"));
    found.expect("libfaketime is installed: run `make setup` once").to_owned()
}

fn replace(path: &Path, text: &str) {
    // Renamed into place, so that no reader gets half of it.
    let temporary = path.with_extension("new");
    fs::write(&temporary, format!("{text}\n")).unwrap();
    fs::rename(temporary, path).unwrap();
}
