//! A network namespace, and what is done in it.

use std::{
    future::Future,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use tokio::time::{Instant, sleep};

/// Runs a test in a network namespace of its own, with a runtime that is in it: this thread's children and sockets are.
pub(crate) fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let ran = thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = ran.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` with these words.
pub(crate) fn ip(words: &str) -> String {
    run("ip", words)
}

/// Runs `nft` with these words.
pub(crate) fn nft(words: &str) -> String {
    run("nft", words)
}

fn run(program: &str, words: &str) -> String {
    let mut command = Command::new(program);
    let output = command.args(words.split(' ')).stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// An interface on which neighbours are: one end of a pair, the other end up without an address.
pub(crate) fn link(name: &str, addresses: &[&str]) {
    ip(&format!("link add {name} type veth peer name {name}p"));
    ip(&format!("link set {name}p up"));
    for address in addresses {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        ip(&format!("addr add {address} dev {name}{nodad}"));
    }
    ip(&format!("link set {name} up"));
}

/// Waits until it is so; what takes longer than ten seconds does not happen.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(10), "{what} does not happen");
        sleep(Duration::from_millis(20)).await;
    }
    began.elapsed()
}
