//! `clustermesh-apiserver etcd-init` with a real etcd and attackers who have a peer's certificate. `etcdctl` reads the
//! results.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is test code"
)]

use std::{
    fs,
    net::{Ipv4Addr, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use mesh_e2e::{Etcd, mesh::eventually};

const USERS: &str = "users:\n- {name: remote-b, role: remote}\n";

/// The etcd of a cluster with a peer, not yet started. `peer` is the peer's certificate.
fn with_a_peer() -> Etcd {
    let etcd = Etcd::new(&[]);
    fs::write(etcd.folder().join("users.yaml"), USERS).unwrap();
    etcd.certificate(&etcd.ca(), "remote-b", "peer");
    etcd
}

/// The commands of an attacker who reaches an etcd without authentication.
const ATTACKS: [&[&str]; 5] = [
    &["user", "add", "ghost:pw"],
    &["user", "grant-role", "ghost", "root"],
    &["user", "add", "root:pw"],
    &["user", "add", "admin-a:pw"],
    &["put", "cilium/state/nodes/v1/a/evil", "x"],
];

#[test]
fn no_peer_gets_in_before_authentication_is_on() {
    let mut etcd = Etcd::protected(&[]);
    fs::write(etcd.folder().join("users.yaml"), USERS).unwrap();
    etcd.certificate(&etcd.ca(), "remote-b", "peer");
    // First start, and start after the data was lost.
    for _ in 0..2 {
        etcd.kill();
        let _ = fs::remove_dir_all(etcd.data());
        let (over, refused) = (AtomicBool::new(false), AtomicUsize::new(0));
        let attack = |command: &[&str]| {
            while !over.load(Ordering::SeqCst) {
                match etcd_attack(&etcd, command) {
                    Ok(done) => panic!("{command:?}: {done}"),
                    Err(error) if error.contains("permission denied") => {
                        refused.fetch_add(1, Ordering::SeqCst);
                    }
                    // No etcd listens yet.
                    Err(_) => {}
                }
            }
        };
        let mut started = None;
        thread::scope(|scope| {
            for command in ATTACKS {
                scope.spawn(|| attack(command));
            }
            let over = SetAtTheEnd(&over);
            started = Some(Starting::of(&etcd));
            eventually("each attack was refused several times", || {
                match refused.load(Ordering::SeqCst) {
                    20.. => Ok(()),
                    other => Err(format!("{other}: {}", etcd.log_text())),
                }
            });
            drop(over);
        });
        // Stopped only after the last attack: `etcdctl user add` waits for ever if its etcd is gone.
        started.expect("the etcd was started").stop();
        etcd.start_again();
        let users = etcd.etcdctl("admin", &["user", "list"]).unwrap();
        assert_eq!(users.lines().collect::<Vec<_>>(), ["admin-a", "local-a", "remote-b", "root"]);
        let read = etcd.etcdctl("peer", &["get", "--prefix", "cilium/state/"]).unwrap();
        assert_eq!(read, "", "a peer may read, and there are no keys");
    }
}

#[test]
fn earlier_users_are_refused_and_their_passwords_removed() {
    let mut etcd = with_a_peer();
    // Started without authentication, as by another tool.
    etcd.start_again();
    let attacker = |args: &[&str]| etcd.etcdctl("peer", args).unwrap();
    attacker(&["user", "add", "ghost:pw"]);
    attacker(&["user", "grant-role", "ghost", "root"]);
    attacker(&["user", "add", "root:pw"]);
    attacker(&["user", "grant-role", "root", "root"]);
    attacker(&["user", "add", "admin-a:pw"]);
    attacker(&["user", "grant-role", "admin-a", "root"]);
    etcd.kill();

    let init = |etcd: &Etcd, flags: &[&str]| {
        let output = etcd.etcd_init(flags).args(etcd.words()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), text)
    };
    let (done, why) = init(&etcd, &[]);
    assert!(!done);
    assert!(why.contains("it has unknown users: ghost with role root"), "{why}");
    assert!(why.contains("--etcd-extra-users") && why.contains("move its data away"), "{why}");
    // When the command has ended, no etcd listens.
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, etcd.port())).is_err());

    // The administrator allows the user. The command can be repeated.
    for _ in 0..2 {
        let (done, why) = init(&etcd, &["--etcd-extra-users", "ghost"]);
        assert!(done, "{why}");
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, etcd.port())).is_err());
    }
    etcd.start_again();
    let with_password = |user: &str| {
        let login = format!("--user={user}:pw");
        etcd.etcdctl("peer", &[&login, "user", "list"])
    };
    assert!(with_password("ghost").is_ok(), "the administrator allowed this user");
    for user in ["root", "admin-a"] {
        let refused = with_password(user).unwrap_err();
        assert!(refused.contains("authentication failed"), "{user}: {refused}");
    }
    let refused = etcd.etcdctl("peer", &["user", "list"]).unwrap_err();
    assert!(refused.contains("permission denied"), "{refused}");
    assert!(etcd.etcdctl("admin", &["user", "list"]).unwrap().contains("remote-b"));
}

#[test]
fn invalid_commands_and_users_files_are_refused() {
    let etcd = with_a_peer();
    for (words, says) in [
        (vec!["--data-dir=relative".to_owned()], "no --data-dir=PATH with an absolute path"),
        (vec![], "no --data-dir=PATH"),
        ([etcd.words(), vec!["--no-such-flag".into()]].concat(), "the etcd ended: "),
    ] {
        let output = etcd.etcd_init(&["--exec"]).args(words).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(says), "{text}");
    }
    fs::write(etcd.folder().join("users.yaml"), "users: [").unwrap();
    let output = etcd.etcd_init(&[]).args(etcd.words()).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("users.yaml"), "{output:?}");
}

/// Runs an attack with timeouts, for an etcd that does not run.
fn etcd_attack(etcd: &Etcd, command: &[&str]) -> Result<String, String> {
    let timeouts = ["--dial-timeout=500ms", "--command-timeout=1s"];
    etcd.etcdctl("peer", &[&timeouts[..], command].concat())
}

/// Sets the flag when it is dropped, also by a panic.
struct SetAtTheEnd<'a>(&'a AtomicBool);

impl Drop for SetAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// An etcd that `etcd-init --exec` starts, while other threads use the `Etcd`.
struct Starting(std::process::Child);

impl Starting {
    fn of(etcd: &Etcd) -> Self {
        Self(etcd.etcd_init(&["--exec"]).args(etcd.words()).spawn().unwrap())
    }

    fn stop(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
