//! Plain watches of what a change passes on its way: the slice in the API server, and the key in the etcd.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use super::{FROM, Kernel, PATIENCE, STARTING, api_server::ApiServer, objects::NAME};
use crate::{Kind, Mesh, mesh::within};

/// Both watches. The process of the second ends on drop.
pub(super) struct Watches {
    slices: Receiver<Instant>,
    keys: Receiver<Instant>,
    etcdctl: Child,
}

/// Events of one change come within this time.
const SETTLED: Duration = Duration::from_millis(300);

// === impl Watches ===

impl Watches {
    /// Starts them. The etcd's is `etcdctl`, which shares no code with ours.
    pub(super) fn start(mesh: &Kind, api_server: &ApiServer) -> Self {
        let (sender, slices) = channel();
        api_server.watch_slices(sender);
        let prefix = format!("cilium/state/endpointslices/v1/{FROM}/{NAME}/");
        // In JSON a response is one line.
        let mut etcdctl =
            mesh.etcdctl(FROM, &["watch", "--write-out", "json", "--prefix", &prefix]);
        let mut etcdctl = etcdctl.stdout(Stdio::piped()).spawn().expect("etcdctl runs");
        let (sender, keys) = channel();
        let output = etcdctl.stdout.take().expect("a pipe");
        thread::spawn(move || report_lines(output, &sender));
        Self { slices, keys, etcdctl }
    }

    /// Waits until both have seen a change, because `etcdctl` does not say when its watch has begun. All pods are ready then.
    pub(super) fn wait_until_seen(&self, api_server: &ApiServer, kernel: &Kernel, pods: u32) {
        within(STARTING, "both watches see changes", || {
            self.drain();
            for ready in [false, true] {
                api_server.set_ready(ready);
                let wanted = if ready { pods } else { pods - 1 };
                within(PATIENCE, "a change arrives", || kernel.has(wanted));
            }
            thread::sleep(SETTLED);
            match self.drain() {
                (0, _) | (_, 0) => Err("none".into()),
                _ => Ok(()),
            }
        });
    }

    /// Forgets the events that have come, and counts them: those of the API server, and those of the etcd.
    pub(super) fn drain(&self) -> (u64, u64) {
        let count = |events: &Receiver<Instant>| events.try_iter().map(|_| 1).sum();
        (count(&self.slices), count(&self.keys))
    }

    /// When the next change was seen in the API server, and in the etcd.
    pub(super) fn next(&self) -> (Instant, Instant) {
        let next = |events: &Receiver<Instant>, what: &str| {
            events.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("the watch of {what}: {e}"))
        };
        (next(&self.slices, "slices"), next(&self.keys, "keys"))
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        let _ = self.etcdctl.kill();
        let _ = self.etcdctl.wait();
    }
}

/// Sends the time of each line.
fn report_lines(output: impl std::io::Read, sender: &Sender<Instant>) {
    for line in BufReader::new(output).lines() {
        if line.is_err() || sender.send(Instant::now()).is_err() {
            return;
        }
    }
}
