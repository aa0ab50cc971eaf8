//! `etcdctl watch`: a watch that shares no code with ours.

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

/// A bare watch. It ends with the value.
pub(crate) struct BareWatch {
    child: Child,
    lines: Option<Receiver<(Instant, String)>>,
}

impl BareWatch {
    /// Watches as an `etcdctl watch` says, on a node, and notes when each line of it came.
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

    /// The same, where no reader looks at what it writes.
    pub(crate) fn unread(mut etcdctl: Command, node: &NodeState) -> Result<Self, BenchError> {
        Self::spawn(etcdctl.stdout(Stdio::null()), node)
    }

    fn spawn(etcdctl: &mut Command, node: &NodeState) -> Result<Self, BenchError> {
        let watch = Self { child: etcdctl.spawn().map_err(io("etcdctl"))?, lines: None };
        adopt(&watch.child, node)?;
        Ok(watch)
    }

    /// The next line, and when it came.
    pub(crate) fn next(&self, patience: Duration) -> Result<(Instant, String), RecvTimeoutError> {
        self.lines.as_ref().ok_or(RecvTimeoutError::Disconnected)?.recv_timeout(patience)
    }

    /// When it says next that a key was put.
    pub(crate) fn next_put(&self, patience: Duration) -> Result<Instant, RecvTimeoutError> {
        loop {
            match self.next(patience)? {
                (at, line) if line == "PUT" => return Ok(at),
                _ => {}
            }
        }
    }

    /// Whether it ended by itself.
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
