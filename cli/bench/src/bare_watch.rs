//! A watch by `etcdctl watch`, which shares no code with ours: the reference of benchmarks.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use mesh_lab::NodeState;

use crate::{
    bench_lab::adopt,
    error::{BenchError, io},
};

/// A plain watch. The process ends when the value is dropped.
pub(crate) struct BareWatch {
    child: Child,
    lines: Option<Receiver<(Instant, String)>>,
}

impl BareWatch {
    /// Runs an `etcdctl watch` on a node, and records the time of each line of its output.
    pub(crate) fn start(mut etcdctl: Command, node: &NodeState) -> Result<Self, BenchError> {
        let mut watch = Self::spawn(etcdctl.stdout(Stdio::piped()), node)?;
        let output = watch.child.stdout.take();
        let output =
            output.ok_or_else(|| BenchError::Unexpected("etcdctl without output".into()))?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        });
        watch.lines = Some(lines);
        Ok(watch)
    }

    /// Runs one whose output is discarded.
    pub(crate) fn unread(mut etcdctl: Command, node: &NodeState) -> Result<Self, BenchError> {
        Self::spawn(etcdctl.stdout(Stdio::null()), node)
    }

    fn spawn(etcdctl: &mut Command, node: &NodeState) -> Result<Self, BenchError> {
        let watch = Self { child: etcdctl.spawn().map_err(io("etcdctl"))?, lines: None };
        adopt(&watch.child, node)?;
        Ok(watch)
    }

    /// The next line, and the time at which it came.
    pub(crate) fn next(&self, patience: Duration) -> Result<(Instant, String), RecvTimeoutError> {
        self.lines.as_ref().ok_or(RecvTimeoutError::Disconnected)?.recv_timeout(patience)
    }

    /// The time of the next put.
    pub(crate) fn next_put(&self, patience: Duration) -> Result<Instant, RecvTimeoutError> {
        loop {
            match self.next(patience)? {
                (at, line) if line == "PUT" => return Ok(at),
                _ => {}
            }
        }
    }

    /// Whether the process ended by itself.
    pub(crate) fn has_ended(&mut self) -> Result<bool, BenchError> {
        Ok(self.child.try_wait().map_err(io("etcdctl"))?.is_some())
    }
}

impl Drop for BareWatch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
