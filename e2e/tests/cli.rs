//! `clustermesh` as scripts use it: its JSON, its exit codes, and what it changes and refuses. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is test code"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use mesh_e2e::{
    Mesh as _, Netns, json,
    mesh::{Daemon, connect, eventually, wait_ready},
    netns::binary,
};
use serde_json::Value;

/// A file's permissions and content.
type Files = BTreeMap<PathBuf, (u32, Vec<u8>)>;

/// The flags that name the clusters a and b.
const A_AND_B: [&str; 4] = ["--context", "a", "--destination-context", "b"];

/// The directory of a lab's cluster.
fn directory(lab: &str, cluster: &str) -> PathBuf {
    Path::new("/run/clustermesh-lab").join(lab).join("clusters").join(cluster)
}

/// All files below a folder.
fn files(folder: &Path) -> Files {
    let mut found = Files::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            found.extend(files(&path));
        } else if kind.is_file() {
            let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
            found.insert(path.clone(), (mode, fs::read(&path).unwrap()));
        }
    }
    found
}

/// The files that an operator's commands could change in a cluster's directory: all except those of its daemons in
/// `state/`, and the lock of the commands.
fn configuration(folder: &Path) -> Files {
    let state = folder.join("state");
    let lock = folder.join(".connect.lock");
    files(folder).into_iter().filter(|(p, _)| !p.starts_with(&state) && *p != lock).collect()
}

/// Runs a command and returns its exit code, standard output and standard error.
fn run(mut command: Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

fn words<'a>(first: &[&'a str], rest: &[&'a str]) -> Vec<&'a str> {
    [first, rest].concat()
}

/// Adds the keys that are not camelCase to `found`. Keys below those in `data` are names of objects, not fields.
fn not_camel_case(value: &Value, data: &[&str], found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let camel = key.starts_with(|c: char| c.is_ascii_lowercase())
                    && key.bytes().all(|b| b.is_ascii_alphanumeric());
                if !camel {
                    found.push(key.clone());
                }
                if !data.contains(&key.as_str()) {
                    not_camel_case(value, data, found);
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|v| not_camel_case(v, data, found)),
        _ => {}
    }
}

/// Every command writes one object and nothing else, with its kind.
#[test]
fn json_is_one_object() {
    let name = "e2ecljson";
    let mesh = Netns::sized(name, 2, 1);
    mesh.apply("a", "client", None);
    let temporary = tempfile::tempdir().unwrap();
    let path = |name: &str| temporary.path().join(name).display().to_string();
    let (pki, crt, issued) = (path("pki"), path("pki/ca.crt"), path("issued"));
    let echo = format!("{}/../deploy/examples/echo.yaml", env!("CARGO_MANIFEST_DIR"));
    let requested = Command::new("openssl")
        .args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-subj", "/CN=remote-b", "-keyout", &path("key"), "-out", &path("csr")])
        .output()
        .unwrap();
    assert!(requested.status.success(), "{}", String::from_utf8_lossy(&requested.stderr));
    let csr = path("csr");
    let lab = ["--lab", name];
    let commands: Vec<(&str, Vec<&str>)> = vec![
        ("Version", vec!["version"]),
        ("Connect", words(&["connect", "--dry-run"], &A_AND_B)),
        ("Connect", words(&["connect", "--wait"], &A_AND_B)),
        ("Status", vec!["status", "--wait"]),
        ("Status", vec!["status", "--context", "a"]),
        ("LabApply", words(&["lab", "apply", "--cluster", "a", "--file", &echo], &lab)),
        ("LabApply", words(&["lab", "apply", "--cluster", "b", "--file", &echo], &lab)),
        ("Status", vec!["status", "--wait"]),
        ("ServiceList", vec!["service", "list"]),
        ("ServiceList", vec!["service", "list", "--namespace", "nowhere"]),
        ("Service", vec!["service", "show", "echo"]),
        ("Lab", words(&["lab", "status"], &lab)),
        ("LabLogs", words(&["lab", "logs", "etcd"], &lab)),
        ("LabStop", words(&["lab", "stop", "b/apiserver"], &lab)),
        ("LabStart", words(&["lab", "start", "b/apiserver"], &lab)),
        ("LabApply", words(&["lab", "delete", "--cluster", "b", "--file", &echo], &lab)),
        ("Disconnect", words(&["disconnect", "--dry-run"], &A_AND_B)),
        ("Disconnect", words(&["disconnect"], &A_AND_B)),
        ("Certificates", vec!["certs", "init", "--cluster", "c", "--dir", &pki]),
        ("Certificates", vec!["certs", "issue", "--dir", &pki, "--user", "u", "--out", &issued]),
        ("Certificate", vec!["certs", "sign", "--dir", &pki, "--user", "remote-b", &csr]),
        ("Certificates", vec!["certs", "show", &crt]),
        ("LabDown", words(&["lab", "down"], &lab)),
        ("LabUp", words(&["lab", "up", "--clusters", "1", "--nodes", "1"], &lab)),
    ];
    for (kind, args) in commands {
        // Reading fails if anything follows the object.
        let (code, value, complaints) = json::run(mesh.clustermesh(&args));
        assert_eq!(code, 0, "{args:?}: {complaints}");
        assert_eq!(value["apiVersion"], "clustermesh.dev/v1", "{args:?}: {value:#}");
        assert_eq!(value["kind"], kind, "{args:?}: {value:#}");
        let is_list = ["Status", "ServiceList", "Service", "LabLogs", "Connect", "Disconnect"];
        if is_list.contains(&kind) || args.starts_with(&["certs", "show"]) {
            assert!(value["items"].is_array(), "{args:?}: {value:#}");
        }
        let mut wrong = Vec::new();
        not_camel_case(&value, &["counters", "services"], &mut wrong);
        assert_eq!(wrong, Vec::<String>::new(), "{args:?}");
    }
    // An error is an object too.
    for args in [
        vec!["connect", "--context", "a", "--destination-context", "nowhere"],
        vec!["service", "show", "nothing"],
        vec!["no-such-command"],
    ] {
        let (code, stdout, stderr) = run(mesh.clustermesh(&words(&args, &["--output", "json"])));
        assert!(code == 1 || code == 2, "{args:?} ended with {code}");
        let value: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!((&value["kind"], &value["code"]), (&"Error".into(), &code.into()), "{args:?}");
        assert!(stderr.starts_with("error: "), "{args:?}: {stderr}");
    }
}

/// A dry run changes nothing, and a repeated connect or disconnect changes nothing more.
#[test]
fn connect_and_disconnect_are_idempotent() {
    let name = "e2eclidem";
    let mesh = Netns::sized(name, 2, 1);
    let folders = ["a", "b"].map(|cluster| directory(name, cluster));
    let all = || folders.each_ref().map(|folder| configuration(folder));
    let changes = |command: &str, more: &[&str]| {
        let args = words(&words(&[command], &A_AND_B), more);
        let done = json::of(mesh.clustermesh(&args));
        assert_eq!(done["dryRun"], more.contains(&"--dry-run"));
        done["changes"].as_array().unwrap().len()
    };
    let before = all();
    // A user, a key, a certificate, a CA and a peer file on each side.
    assert_eq!(changes("connect", &["--dry-run"]), 10);
    assert_eq!(all(), before);
    assert!(folders.iter().all(|folder| !folder.join(".connect.lock").exists()));

    assert_eq!(changes("connect", &[]), 10);
    let connected = all();
    wait_ready(&mesh);
    assert_keys_stay_in_their_cluster(&folders);
    for folder in &folders {
        let pki = fs::metadata(folder.join("pki")).unwrap().permissions().mode();
        assert_eq!(pki & 0o7777, 0o700, "{}", folder.display());
    }
    for more in [&[][..], &["--dry-run"], &["--connection-mode", "unicast"]] {
        assert_eq!(changes("connect", more), 0, "{more:?}");
    }
    // With the clusters in the other order, it is the same connection.
    let turned = ["connect", "--context", "b", "--destination-context", "a"];
    assert_eq!(json::of(mesh.clustermesh(&turned))["changes"], serde_json::json!([]));
    assert_eq!(all(), connected);

    assert_eq!(changes("disconnect", &["--dry-run"]), 10);
    assert_eq!(all(), connected);
    assert_eq!(changes("disconnect", &[]), 10);
    let disconnected = all();
    // An empty users file stays; all else is as before.
    for ((mut after, before), folder) in disconnected.iter().cloned().zip(before).zip(&folders) {
        let (_, users) = after.remove(&folder.join("users.yaml")).unwrap();
        assert!(!String::from_utf8(users).unwrap().contains("remote"));
        assert_eq!(after, before);
    }
    assert_eq!(changes("disconnect", &[]), 0);
    assert_eq!(all(), disconnected);

    // In one direction only: the other cluster does not import.
    assert_eq!(changes("connect", &["--connection-mode", "unicast"]), 5);
    assert!(folders[0].join("peers/b").is_file() && !folders[1].join("peers/a").exists());
    wait_ready(&mesh);
}

/// No cluster has a copy of another cluster's private key, not even in the files of its etcd. Only the owner of a key file
/// can read it.
fn assert_keys_stay_in_their_cluster(folders: &[PathBuf; 2]) {
    // Each key file, with a secret part of it.
    let mut secrets = BTreeSet::new();
    for folder in folders {
        let all = configuration(folder);
        let keys = all.into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "key"));
        let known = secrets.len();
        for (path, (mode, pem)) in keys {
            assert_eq!(mode, 0o600, "{}", path.display());
            // The second line of base64: the first one starts equally in all keys.
            let pem = String::from_utf8(pem).unwrap();
            let secret = pem.lines().nth(2).expect("several lines of base64").to_owned();
            assert!(secret.len() > 40, "{}", path.display());
            secrets.insert((path, secret));
        }
        assert_eq!(secrets.len(), known + 5, "ca, server, admin, local and the peer's");
    }
    let mut grep = Command::new("grep");
    grep.args(["-raoF", "--null"]);
    secrets.iter().for_each(|(_, secret)| {
        grep.args(["-e", secret]);
    });
    grep.args(folders);
    let (_, found, complaints) = run(grep);
    assert_eq!(complaints, "");
    let found: BTreeSet<(PathBuf, String)> = found
        .lines()
        .map(|line| line.split_once('\0').unwrap())
        .map(|(path, secret)| (path.into(), secret.to_owned()))
        .collect();
    assert_eq!(found, secrets, "each key is in its file and nowhere else");
}

/// Connecting clusters that cannot be in one mesh is refused with a remedy, before anything is changed.
#[test]
fn clusters_that_cannot_be_connected_are_refused() {
    let name = "e2eclrefuse";
    let mesh = Netns::sized(name, 2, 1);
    connect(&mesh, "a", "b");
    let (a, b) = (directory(name, "a"), directory(name, "b"));
    let original = fs::read_to_string(b.join("cluster.yaml")).unwrap();
    // A third cluster that could be connected to a. Each case makes one value of it conflict.
    let fit = |text: &str| {
        let mut text = text.replace("name: b", "name: c").replace("id: 2", "id: 3");
        for (theirs, third) in
            [("10.2.0", "10.3.0"), ("fd00:10:2", "fd00:10:3"), ("172.31.2", "172.31.3")]
        {
            text = text.replace(theirs, third);
        }
        text.replace("fd00:172::2:", "fd00:172::3:")
    };
    let cases: [(&str, &str, &str, &[&str]); 6] = [
        ("name: c", "name: a", "the same name", &["both clusters are called a", "another name"]),
        ("id: 3", "id: 1", "the same id", &["both have the ID 1", "another"]),
        (
            "10.3.0.0/16",
            "10.1.128.0/17",
            "overlapping pods",
            &["10.1.128.0/17", "10.1.0.0/16", "pod ranges of their own"],
        ),
        (
            "fd00:10:3::/48",
            "fd00:10::/32",
            "overlapping pods, v6",
            &["fd00:10::/32", "pod ranges of their own"],
        ),
        (
            "10.3.0.0/16",
            "10.2.0.0/16",
            "pods of a's peer",
            &["10.2.0.0/16", "b", "peer of a already"],
        ),
        (
            "maxConnectedClusters: 255",
            "maxConnectedClusters: 511",
            "another limit",
            &["511", "255", "all clusters need the same"],
        ),
    ];
    for (from, to, what, complaint) in cases {
        let folder = tempfile::tempdir().unwrap();
        let third = folder.path().join("c");
        let pki = third.join("pki").display().to_string();
        json::of(mesh.clustermesh(&["certs", "init", "--cluster", "c", "--dir", &pki]));
        let text = fit(&original);
        assert!(text.contains(from), "{from} in {text}");
        fs::write(third.join("cluster.yaml"), text.replace(from, to)).unwrap();
        let before = [&a, &b, &third].map(|folder| configuration(folder));
        let third_name = third.display().to_string();
        for pair in [["a", third_name.as_str()], [third_name.as_str(), "a"]] {
            for dry in [&[][..], &["--dry-run"]] {
                let args = ["connect", "--context", pair[0], "--destination-context", pair[1]];
                let (code, stdout, stderr) = run(mesh.clustermesh(&words(&args, dry)));
                assert_eq!((code, stdout.as_str()), (1, ""), "{what}: {stderr}");
                assert!(complaint.iter().all(|part| stderr.contains(part)), "{what}: {stderr}");
            }
        }
        assert_eq!([&a, &b, &third].map(|folder| configuration(folder)), before, "{what}");

        // Without the conflicting value, connecting works.
        fs::write(third.join("cluster.yaml"), text).unwrap();
        let args = ["connect", "--dry-run", "--context", "a", "--destination-context", &third_name];
        assert_eq!(json::of(mesh.clustermesh(&args))["changes"].as_array().unwrap().len(), 10);
    }
    let (code, _, stderr) =
        run(mesh.clustermesh(&["connect", "--context", "a", "--destination-context", "a"]));
    assert!(code == 1 && stderr.contains("cannot be connected to itself"), "{stderr}");
}

/// For each exit code, a command that ends with it.
#[test]
fn exit_codes() {
    let name = "e2eclcodes";
    let mesh = Netns::sized(name, 2, 1);
    connect(&mesh, "a", "b");
    let code = |args: &[&str]| run(mesh.clustermesh(args)).0;
    assert_eq!(code(&["status"]), 0);
    assert_eq!(code(&["status", "--context", "nowhere"]), 1);
    assert_eq!(code(&["status", "--wait-duration", "1"]), 2, "--wait-duration needs --wait");
    assert_eq!(code(&["connect", "--context", "a"]), 2);
    let (code_of_help, stdout, _) = run(mesh.clustermesh(&["--help"]));
    assert_eq!(code_of_help, 0);
    assert!(
        stdout.contains("0 done, 1 failed, 2 usage, 3 not ready or degraded, 4 timeout"),
        "{stdout}"
    );
    let mut stop = mesh.lab("stop");
    stop.args(["--kill", "b/etcd"]);
    json::of(stop);
    eventually("the status reports it", || match code(&["status"]) {
        3 => Ok(()),
        other => Err(other.to_string()),
    });
    // What was found is in standard output also after a timeout; the progress is not.
    let (code, value, _) =
        json::run(mesh.clustermesh(&["status", "--wait", "--wait-duration", "1"]));
    assert_eq!(code, 4);
    assert_eq!((&value["kind"], &value["ready"]), (&"Status".into(), &false.into()));
    // `connect --wait` waits for the agents of both, and names the one that is not connected, with the reason.
    let (code, value, complaint) =
        json::run(mesh.clustermesh(&words(&["connect", "--wait=1s"], &A_AND_B)));
    assert_eq!((code, &value["changes"]), (4, &serde_json::json!([])));
    assert!(complaint.contains("warning: still waiting after 1s: a/n1: b: "), "{complaint}");
}

/// The status names the first connection phase that fails, with the reason.
#[test]
fn the_status_names_the_phase_that_fails() {
    let name = "e2eclladder";
    let mesh = Netns::sized(name, 2, 1);
    connect(&mesh, "a", "b");
    let (a, b) = (directory(name, "a"), directory(name, "b"));
    let lab = |command: &str, process: &str| {
        let mut lab = mesh.lab(command);
        lab.arg(process);
        json::of(lab);
    };
    let broken_of = |of: &str, phase: &str, reason: &str| {
        eventually(&format!("a's agent is stuck at {phase} of {of}"), || {
            let (code, status, _) = json::run(mesh.clustermesh(&["status", "--context", "a"]));
            // An agent that has just been started may not answer yet, or not know its peers yet.
            let peers = status["clusters"][0]["agents"][0]["peers"].as_array().cloned();
            let peers = peers.unwrap_or_default();
            let peer = peers.iter().find(|peer| peer["name"] == of).unwrap_or(&Value::Null);
            let Some(phases) = peer["ladder"].as_array() else { return Err(format!("{status:#}")) };
            let broken = phases.iter().position(|step| step["state"] != "ok");
            let first = broken.map(|at| &phases[at]).unwrap_or(&Value::Null);
            let is = |step: &Value, state: &str| step["state"] == state;
            // The data path does not depend on the etcd.
            let mut after = phases
                .iter()
                .skip(broken.unwrap_or(0) + 1)
                .filter(|step| step["name"] != "data-path");
            let right = code == 3
                && first["name"] == phase
                && is(first, "failed")
                && first["detail"].as_str().is_some_and(|detail| detail.contains(reason))
                && after.all(|step| is(step, "pending"));
            if right { Ok(()) } else { Err(format!("{code}: {peer:#}")) }
        });
        // The text output names the same phase.
        let (_, text, _) = run(mesh.clustermesh(&["status", "--context", "a"]));
        assert!(text.contains(&format!("NOT READY  {phase}: ")), "{text}");
    };
    let broken = |phase: &str, reason: &str| broken_of("b", phase, reason);

    lab("stop", "b/etcd");
    broken("tcp", "connection refused: no etcd listens there");
    lab("start", "b/etcd");
    wait_ready(&mesh);

    // A CA that did not sign b's certificate. The agent is restarted, because a running one goes on with the right CA.
    let ca = a.join("peers/b.etcd-client-ca.crt");
    let right = fs::read(&ca).unwrap();
    fs::copy(a.join("pki/ca.crt"), &ca).unwrap();
    lab("stop", "a/n1/agent");
    lab("start", "a/n1/agent");
    broken("tls", "by a CA that is not trusted for it");
    fs::write(&ca, right).unwrap();
    wait_ready(&mesh);

    // b removes a's user. An etcd checks a user when a request starts, so the watches of a go on until b's etcd restarts.
    let users = b.join("users.yaml");
    let right = fs::read(&users).unwrap();
    fs::write(&users, "users: []\n").unwrap();
    eventually("b's apiserver has removed the user", || {
        let etcdctl = ["etcdctl", "--endpoints=https://127.0.0.1:2379", "user", "list"];
        let mut command = mesh.on_node("b", "n1", &etcdctl);
        let pki = b.join("pki");
        for (flag, file) in [("cacert", "ca.crt"), ("cert", "admin.crt"), ("key", "admin.key")] {
            command.arg(format!("--{flag}={}", pki.join(file).display()));
        }
        let (_, users, complaint) = run({
            command.env("ETCDCTL_API", "3");
            command
        });
        let gone = users.contains("local-b") && !users.contains("remote-a");
        if gone { Ok(()) } else { Err(users + &complaint) }
    });
    lab("stop", "b/etcd");
    lab("start", "b/etcd");
    broken("authenticated", "permission denied");
    fs::write(&users, right).unwrap();
    wait_ready(&mesh);

    // By its config, b is another cluster than the one that was connected: the agent accepts nothing from it. Commands that
    // list backends report this too.
    let peer = a.join("peers/b");
    let right = fs::read_to_string(&peer).unwrap();
    assert!(right.contains("  id: 2\n"), "{right}");
    fs::write(&peer, right.replace("  id: 2\n", "  id: 99\n")).unwrap();
    broken("config", "the cluster has the ID 2, not the 99 that was connected");
    let explain = ["service", "explain", "--context", "a"];
    let (code, explained, complaint) = json::run(mesh.clustermesh(&explain));
    let absent = explained["withoutFrontend"].as_array().unwrap();
    let refused = absent.iter().find(|one| one["why"] == "cluster-refused").unwrap();
    assert_eq!((code, &refused["cluster"]), (3, &serde_json::json!("b")), "{explained:#}");
    assert!(complaint.contains("cluster b is refused: the cluster has the ID 2"), "{complaint}");
    fs::write(&peer, right).unwrap();
    wait_ready(&mesh);

    // The etcd of a hangs, with its connections open. Then the apiserver of a is down, and an agent starts.
    let etcd = Daemon::Etcd("a".into());
    mesh.freeze(&etcd);
    broken_of("a", "synced", "the local apiserver's reports no longer arrive");
    mesh.thaw(&etcd);
    wait_ready(&mesh);
    lab("stop", "a/apiserver");
    lab("stop", "a/n1/agent");
    lab("start", "a/n1/agent");
    broken_of("a", "synced", "has not reported since this agent started");
    lab("start", "a/apiserver");
    wait_ready(&mesh);
}

/// OpenSSL accepts the certificates, with the intended names and purposes.
#[test]
fn openssl_accepts_the_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let certs = |args: &[&str]| {
        let mut command = Command::new(binary());
        command.arg("certs").args(args);
        json::run(command)
    };
    let openssl = |args: &[&str]| {
        run({
            let mut command = Command::new("openssl");
            command.args(args);
            command
        })
    };
    let pki = path("pki");
    let init = [
        "init",
        "--cluster",
        "c",
        "--dir",
        &pki,
        "--address",
        "192.0.2.1",
        "--address",
        "2001:db8::1",
    ];
    assert_eq!(certs(&init).0, 0);
    let again = certs(&init);
    assert!(again.0 == 1 && again.2.contains("CA already"), "{again:?}");

    let ca = path("pki/ca.crt");
    let about = |file: &str| {
        openssl(&[
            "x509",
            "-noout",
            "-subject",
            "-ext",
            "subjectAltName,extendedKeyUsage,basicConstraints",
            "-in",
            file,
        ])
        .1
    };
    let verified = |purpose: &str, file: &str| {
        openssl(&["verify", "-x509_strict", "-CAfile", &ca, "-purpose", purpose, file])
    };
    let (code, printed, _) = openssl(&["verify", "-x509_strict", "-CAfile", &ca, &ca]);
    assert_eq!(code, 0, "{printed}");
    assert!(about(&ca).contains("CA:TRUE"));
    let server = about(&path("pki/server.crt"));
    for part in [
        "CN = clustermesh-apiserver.clustermesh.svc",
        "DNS:clustermesh-apiserver.cilium.io",
        "DNS:*.mesh.cilium.io",
        "IP Address:127.0.0.1",
        "IP Address:192.0.2.1",
        "IP Address:2001:DB8:0:0:0:0:0:1",
        "TLS Web Server Authentication",
    ] {
        let spaceless = |text: &str| text.replace(' ', "");
        assert!(spaceless(&server).contains(&spaceless(part)), "{part} in {server}");
    }
    for (name, purpose, other) in [
        ("server", "sslserver", "sslclient"),
        ("admin", "sslclient", "sslserver"),
        ("local", "sslclient", "sslserver"),
    ] {
        let file = path(&format!("pki/{name}.crt"));
        assert_eq!(verified(purpose, &file).0, 0, "{name}: {:?}", verified(purpose, &file));
        assert_ne!(verified(other, &file).0, 0, "{name} is not a {other}");
        let mode = fs::metadata(path(&format!("pki/{name}.key"))).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    let issued = path("issued");
    assert_eq!(
        certs(&["issue", "--dir", &pki, "--user", "remote-x", "--out", &issued, "--days", "7"]).0,
        0
    );
    assert_eq!(verified("sslclient", &path("issued.crt")).0, 0);
    // The key file belongs to the certificate.
    let of_certificate = openssl(&["x509", "-noout", "-pubkey", "-in", &path("issued.crt")]).1;
    let of_key = openssl(&["pkey", "-pubout", "-in", &path("issued.key")]).1;
    assert!(!of_key.is_empty() && of_certificate == of_key);
    let week = |seconds: &str| {
        openssl(&["x509", "-noout", "-checkend", seconds, "-in", &path("issued.crt")]).0
    };
    assert_eq!((week("604000"), week("605000")), (0, 1), "seven days are 604,800 seconds");

    // The request asks for more than a user may have. The signed certificate has only the user that the command names.
    let request = openssl(&[
        "req",
        "-new",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=remote-y",
        "-keyout",
        &path("y.key"),
        "-out",
        &path("y.csr"),
        "-addext",
        "basicConstraints=critical,CA:TRUE",
        "-addext",
        "subjectAltName=DNS:y",
    ]);
    assert_eq!(request.0, 0, "{request:?}");
    let sign = |user: &str| {
        certs(&["sign", "--dir", &pki, "--user", user, "--out", &path("y.crt"), &path("y.csr")])
    };
    let refused = sign("remote-z");
    assert!(refused.0 == 1 && refused.2.contains("remote-y"), "{refused:?}");
    assert!(!Path::new(&path("y.crt")).exists());
    assert_eq!(sign("remote-y").0, 0);
    assert_eq!(verified("sslclient", &path("y.crt")).0, 0);
    let signed = about(&path("y.crt"));
    assert!(
        signed.contains("remote-y") && signed.contains("CA:FALSE") && !signed.contains("DNS:"),
        "{signed}"
    );

    // `certs show` shows the certificates, and ends with 3 if one is no longer valid.
    let (code, shown, _) = certs(&["show", &path("issued.crt"), &ca]);
    let shown = shown["certificates"].as_array().unwrap().clone();
    assert_eq!((code, shown.len()), (0, 2));
    assert_eq!(
        (&shown[0]["commonName"], &shown[1]["authority"]),
        (&"remote-x".into(), &true.into())
    );
    let expired = openssl(&[
        "x509",
        "-req",
        "-in",
        &path("y.csr"),
        "-CA",
        &ca,
        "-CAkey",
        &path("pki/ca.key"),
        "-days",
        "-1",
        "-out",
        &path("old.crt"),
    ]);
    assert_eq!(expired.0, 0, "{expired:?}");
    let (code, shown, _) = certs(&["show", &path("old.crt")]);
    assert_eq!((code, &shown["certificates"][0]["valid"]), (3, &false.into()));
    assert_eq!(certs(&["show", &path("y.key")]).0, 1);
}

/// Tables fit the terminal, and break between words.
#[test]
fn tables_fit_the_terminal() {
    let name = "e2ecltable";
    let mesh = Netns::sized(name, 2, 1);
    connect(&mesh, "a", "b");
    let binary = binary().display().to_string();
    for (width, args) in
        [(80, "status --verbose"), (100, "status -v"), (80, "lab status --lab e2ecltable")]
    {
        // script(1) gives the command a terminal.
        let shell = format!("stty cols {width}; {binary} {args}");
        let mut script = Command::new("script");
        let contexts = format!("/run/clustermesh-lab/{name}/contexts.yaml");
        script.args(["-qec", &shell, "/dev/null"]).env("CLUSTERMESH_CONTEXTS", contexts);
        let (code, text, _) = run(script);
        assert_eq!(code, 0, "{text}");
        assert!(text.lines().count() > 4, "{text}");
        let longest = text.lines().map(|line| line.trim_end().chars().count()).max().unwrap();
        assert!(longest <= width, "{longest} columns of {width}: {text}");
        let (_, whole, _) = run(mesh.clustermesh(&args.split(' ').collect::<Vec<_>>()));
        // Nothing is missing, and no word is broken.
        for word in
            text.split_whitespace().filter(|word| word.bytes().all(|b| b.is_ascii_alphabetic()))
        {
            assert!(whole.split_whitespace().any(|other| other == word), "{word} of {whole}");
        }
    }
}

/// All processes of a cluster are killed. The other cluster reports since when it is unreachable and until when its
/// backends are used, drains it on request, and removes it even when its directory is gone.
#[test]
fn a_dead_cluster_is_drained_and_removed() {
    let name = "e2ecldead";
    let mesh = Netns::sized(name, 2, 1);
    for cluster in ["a", "b"] {
        mesh.apply(cluster, "echo", None);
    }
    connect(&mesh, "a", "b");
    let a = directory(name, "a");
    let code = |args: &[&str]| run(mesh.clustermesh(args)).0;
    let is_drained = || {
        let (_, explained, _) =
            json::run(mesh.clustermesh(&["service", "explain", "default/echo", "--context", "a"]));
        explained.to_string().contains("cluster-drained")
    };
    let peer = || {
        let (_, status, _) = json::run(mesh.clustermesh(&["status", "--context", "a"]));
        let peers = status["clusters"][0]["agents"][0]["peers"].as_array().cloned();
        peers
            .unwrap_or_default()
            .into_iter()
            .find(|peer| peer["name"] == "b")
            .unwrap_or(Value::Null)
    };
    assert_eq!((&peer()["state"], &peer()["staleAt"]), (&"ready".into(), &Value::Null));
    let mut stop = mesh.lab("stop");
    stop.args(["--kill", "b/"]);
    json::of(stop);
    eventually("a reports until when the backends of b are used", || {
        let peer = peer();
        let away = peer["staleAt"].is_string() && peer["unreachableSince"].is_string();
        let in_use = peer["backendsInUse"].as_u64().is_some_and(|count| count > 0);
        let is_so = peer["state"] == "notReady" && away && in_use;
        if is_so { Ok(()) } else { Err(peer.to_string()) }
    });
    let (_, text, _) = run(mesh.clustermesh(&["status", "--context", "a", "--output", "text"]));
    assert!(
        text.starts_with("a: 1/1 apiservers, 1/1 agents, 0/1 peers ready; NOT READY"),
        "{text}"
    );
    assert!(!is_drained());

    assert_eq!(code(&["drain", "x", "--from", "a"]), 1, "x is not a peer");
    assert_eq!(code(&["drain", "b", "--from", "a"]), 0);
    eventually("b is drained in a", || match (is_drained(), &peer()["drainedHere"]) {
        (true, Value::Bool(true)) => Ok(()),
        (explained, drained) => Err(format!("explain {explained}, status {drained}")),
    });
    // With a drained peer, the cluster is degraded but not unready.
    assert_eq!((&peer()["state"], &peer()["ready"]), (&"degraded".into(), &false.into()));
    let (_, text, _) = run(mesh.clustermesh(&["status", "--context", "a", "--output", "text"]));
    assert!(text.contains("DRAINED") && text.contains("0/1 peers ready; DEGRADED"), "{text}");
    let nodes = ["node", "list", "--context", "a", "--cluster", "b"];
    let (_, nodes, _) = json::run(mesh.clustermesh(&nodes));
    assert_eq!(nodes["items"][0]["status"], "drained", "{nodes:#}");
    assert_eq!(code(&["undrain", "b", "--from", "a"]), 0);
    eventually(
        "b is used in a again",
        || if is_drained() { Err(peer().to_string()) } else { Ok(()) },
    );
    assert_eq!(code(&["drain", "b", "--from", "a"]), 0);

    fs::rename(directory(name, "b"), directory(name, "b-is-gone")).unwrap();
    let leave = words(&["disconnect"], &A_AND_B);
    let (left, _, complaint) = run(mesh.clustermesh(&leave));
    let command = "clustermesh disconnect --context b --destination-context a";
    assert!(left == 3 && complaint.contains(command), "{left} {complaint}");
    assert!(!a.join("peers/b").exists());
    for (file, name) in [("users.yaml", "remote-b"), ("drained-peers.yaml", "- b")] {
        assert!(!fs::read_to_string(a.join(file)).unwrap().contains(name), "{file}");
    }
    assert_eq!(code(&leave), 1, "b is already removed");
    eventually("a is alone and ready", || {
        match run(mesh.clustermesh(&["status", "--context", "a", "--allow-degraded"])) {
            (0, ..) => Ok(()),
            (_, text, _) => Err(text),
        }
    });
    fs::rename(directory(name, "b-is-gone"), directory(name, "b")).unwrap();
}

/// While agents are dead, lists show the answers of the others, name the agents that do not answer, and end with 3.
#[test]
fn lists_show_the_agents_that_answer() {
    let name = "e2eclidead";
    let mesh = Netns::sized(name, 2, 2);
    for cluster in ["a", "b"] {
        mesh.apply(cluster, "echo", None);
    }
    connect(&mesh, "a", "b");
    wait_ready(&mesh);
    let kill = |process: &str| {
        let mut stop = mesh.lab("stop");
        stop.args(["--kill", process]);
        json::of(stop);
    };
    let seen_in = |list: &Value, field: &str| -> Vec<String> {
        let all = list["items"].as_array().unwrap().iter();
        let mut all: Vec<_> = all.map(|item| item[field].as_str().unwrap().to_owned()).collect();
        all.dedup();
        all
    };
    kill("b/n1/agent");
    let (code, list, complaints) = json::run(mesh.clustermesh(&["service", "list"]));
    assert_eq!((code, seen_in(&list, "in")), (3, vec!["a".into(), "b".into()]), "{list:#}");
    let why = "warning: as b/n2 has it: the agent of b/n1 does not run (socket ";
    assert!(complaints.starts_with(why) && complaints.lines().count() == 1, "{complaints}");

    kill("b/n2/agent");
    for (args, field) in [
        (&["service", "list"][..], "in"),
        (&["service", "show", "echo"], "in"),
        (&["node", "list"], "in"),
        (&["identity", "list"], "in"),
        (&["pod", "list"], "cluster"),
    ] {
        let (code, list, complaints) = json::run(mesh.clustermesh(args));
        assert_eq!((code, seen_in(&list, field)), (3, vec!["a".into()]), "{args:?}: {list:#}");
        for node in ["n1", "n2"] {
            let why = format!("warning: the agent of b/{node} does not run (socket ");
            let lines = complaints.lines().filter(|line| line.starts_with(&why));
            assert_eq!(lines.count(), 1, "{args:?}: {complaints}");
        }
    }
}

/// Of a global service that no pod serves, an agent says which clusters have endpoints, and files say why there are none.
#[test]
fn a_service_without_pods_says_why() {
    let name = "e2eclempty";
    let mesh = Netns::sized(name, 2, 1);
    connect(&mesh, "a", "b");
    wait_ready(&mesh);
    let service = "apiVersion: v1
kind: Namespace
metadata: {name: other}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: other, annotations: {service.cilium.io/global: 'true'}}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
";
    mesh.apply_text("a", "web", service);
    let why = "a has service other/web without endpoints; b has none";
    eventually("the agent knows the service", || {
        let show = ["service", "show", "web", "--namespace", "other", "--context", "a"];
        let (code, shown, complaint) = json::run(mesh.clustermesh(&show));
        let found = &shown["items"][0]["frontends"][0]["withoutBackends"];
        match (code, found == why) {
            (3, true) => Ok(()),
            _ => Err(format!("{code}: {shown:#} {complaint}")),
        }
    });
    let state = format!("/run/clustermesh-lab/{name}/clusters");
    let files = "no pod in a matches app=web in namespace other; b has no service other/web";
    let agent = format!("No backend is available: {why}.");
    let from_files = format!("No backend is available: {files}.");
    for (args, code, says) in [
        (&["service", "show", "other/web", "--context", "a"][..], 3, why),
        (&["service", "explain", "other/web", "--context", "a"], 0, agent.as_str()),
        (
            &["service", "explain", "other/web", "--state", &state, "--from", "a"],
            0,
            from_files.as_str(),
        ),
        (
            &["service", "backends", "other/web", "--state", &state, "--from", "a", "-o", "text"],
            0,
            files,
        ),
    ] {
        let (found, printed, complaint) = run(mesh.clustermesh(args));
        assert_eq!(found, code, "{args:?}: {printed}{complaint}");
        assert!(printed.contains(says), "{args:?}: {printed}");
    }
}

/// By the labels that are part of their identities; what cannot be understood is wrong usage.
#[test]
fn pods_are_listed_by_their_labels() {
    let mesh = Netns::sized("e2eclselect", 1, 1);
    mesh.apply("a", "client", None);
    mesh.apply("a", "echo", Some(2));
    let listed = |selector: &str| {
        let (code, list, complaint) = json::run(mesh.clustermesh(&["pod", "list", "-l", selector]));
        let pods = list["items"].as_array().cloned().unwrap_or_default();
        let mut names: Vec<String> =
            pods.iter().map(|pod| pod["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        (code, names, complaint)
    };
    let all = ["client", "echo-0", "echo-1"].map(str::to_owned).to_vec();
    eventually("all pods have their identities", || match listed("") {
        (0, pods, _) if pods == all => Ok(()),
        found => Err(format!("{found:?}")),
    });
    assert_eq!(listed("app=echo").1, all[1..]);
    assert_eq!(listed("!app").1, all[..1]);
    assert_eq!(listed("app!=echo").1, all[..1]);
    assert_eq!(listed("app=echo,!app"), (0, Vec::new(), String::new()));
    let (code, _, complaint) = listed("app in (echo)");
    assert!(code == 2 && complaint.contains("KEY=VALUE"), "{code}: {complaint}");
}

/// A sysdump has what a bug report needs, and no key of any cluster.
#[test]
fn a_sysdump_has_no_secrets() {
    let name = "e2eclidump";
    let mesh = Netns::sized(name, 2, 1);
    connect(&mesh, "a", "b");
    wait_ready(&mesh);
    let mut restart = mesh.lab("stop");
    restart.args(["b/n1/agent"]);
    json::of(restart);
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("dump.tar.gz").display().to_string();
    let (code, printed, _) = json::run(mesh.clustermesh(&["sysdump", "--output-file", &archive]));
    // One agent does not answer; everything else is there.
    assert_eq!(code, 3, "{printed:#}");
    assert!(printed["warnings"].to_string().contains("b/n1"), "{printed:#}");
    let mode = fs::metadata(&archive).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut tar = Command::new("tar");
    tar.args(["-xzf", &archive, "--strip-components=1", "-C"]).arg(folder.path());
    let (code, _, complaint) = run(tar);
    assert_eq!(code, 0, "{complaint}");
    for (path, word) in [
        ("version.json", "mapLayout"),
        ("check.json", "\"bpf-fs\""),
        ("a/status.json", "\"Status\""),
        ("a/etcd.json", "EtcdDump"),
        ("a/services.json", "ServiceList"),
        ("a/n1/agent.json", "effective"),
        ("a/n1/routes.txt", "10.2.1.0/24"),
        ("a/n1/nftables.txt", ""),
        ("a/directory/cluster.yaml", "name: a"),
        ("a/directory/peers/b", "endpoints"),
        ("logs/a-etcd.log", "etcd"),
        ("logs/b-n1-agent.log", "cluster"),
        ("a/apiserver.json", "--etcd-endpoint="),
        ("errors.txt", "b/n1"),
    ] {
        let text = fs::read_to_string(folder.path().join(path))
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(text.contains(word), "{path}: no {word} in {text}");
    }
    let mut secrets = vec!["PRIVATE KEY".to_owned()];
    for cluster in ["a", "b"] {
        for (path, (_, text)) in files(&directory(name, cluster)) {
            if path.extension().is_some_and(|ending| ending == "key") {
                let text = String::from_utf8(text).unwrap();
                let lines = text.lines().filter(|line| !line.starts_with("-----"));
                secrets.extend(lines.map(str::to_owned));
            }
        }
    }
    assert!(secrets.len() > 8, "there are keys");
    fs::remove_file(&archive).unwrap();
    for (path, (_, bytes)) in files(folder.path()) {
        let text = String::from_utf8_lossy(&bytes);
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{} has {secret}", path.display());
        }
    }
}

/// `connectivity test` passes in a connected mesh, names the checks that fail in one that is not, and leaves nothing
/// behind.
#[test]
fn the_connectivity_test_names_failing_checks() {
    let name = "e2eclconn";
    let mesh = Netns::sized(name, 2, 1);
    let failed = |timeout: &str| {
        let args = ["connectivity", "test", "--timeout", timeout];
        let (code, report, complaint) = json::run(mesh.clustermesh(&args));
        let checks = report["items"].as_array().unwrap().clone();
        assert_eq!(checks.len(), 2 * 3 * 4, "{report:#}");
        let failed = checks.into_iter().filter(|check| check["passed"] == false);
        (code, failed.collect::<Vec<Value>>(), complaint)
    };
    let before = mesh.state();
    let (code, without, complaint) = failed("200ms");
    assert_eq!((code, without.len()), (1, 2 * 2 * 4), "{without:#?}");
    assert!(without.iter().all(|check| check["check"] != "local"), "{without:#?}");
    assert!(complaint.contains("16 of 24 checks failed"), "{complaint}");

    connect(&mesh, "a", "b");
    wait_ready(&mesh);
    let (code, with, _) = failed("20s");
    assert_eq!((code, with), (0, vec![]));

    // A check that no backend can answer is skipped, which is not a failure.
    json::of(mesh.clustermesh(&["drain", "b"]));
    let args = ["connectivity", "test", "--timeout", "20s"];
    let (code, report, complaint) = json::run(mesh.clustermesh(&args));
    assert_eq!(code, 0, "{report:#} {complaint}");
    let skipped: Vec<&Value> =
        report["items"].as_array().unwrap().iter().filter(|c| c["result"] == "skipped").collect();
    let of = |cluster: &str, check: &str| {
        skipped.iter().filter(|c| c["cluster"] == cluster && c["check"] == check).count()
    };
    assert_eq!([of("a", "remote"), of("a", "failover"), of("b", "local")], [4; 3], "{report:#}");
    assert_eq!(skipped.len(), 12, "{report:#}");
    json::of(mesh.clustermesh(&["undrain", "b"]));

    // With a broken link, the checks that need it fail.
    let mut cut = mesh.lab("cut");
    cut.args(["a", "b"]);
    json::of(cut);
    let (code, broken, _) = failed("200ms");
    assert!(code == 1 && broken.iter().all(|check| check["check"] != "local"), "{broken:#?}");
    let link = |check: &Value| check["cluster"] == "a" && check["to"] == "b";
    assert!(broken.iter().any(link), "{broken:#?}");
    json::of(mesh.lab("heal"));
    let pods = |state: &mesh_lab::LabState| {
        state.clusters.iter().map(|cluster| cluster.pods.len()).collect::<Vec<_>>()
    };
    assert_eq!(pods(&mesh.state()), pods(&before));
    for cluster in ["a", "b"] {
        let manifests = files(&directory(name, cluster).join("manifests"));
        let left = |text: &[u8]| String::from_utf8_lossy(text).contains("clustermesh-test");
        assert!(!manifests.values().any(|(_, text)| left(text)), "{cluster}");
    }
}
