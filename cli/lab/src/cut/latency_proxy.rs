//! Etcds that some nodes reach with a delay.
//!
//! A relay on the etcd's node accepts connections and forwards each byte when it is due. nftables redirects to it what
//! these nodes send to the etcd's port, so clients use TLS to the address that they know. Connections from before are
//! reset, so that none bypasses the relay. The relay connects to the etcd from a loopback address of its own, by which the
//! rules recognise it.

use std::{fs, net::IpAddr, path::PathBuf, thread, time::Instant};

use nix::sys::signal::Signal;

use super::TABLE;
use crate::{
    cluster::ETCD_PORT,
    error::LabError,
    lab::Lab,
    process::{Liveness, stop_all},
    state::{ProcessState, Relay},
    workload::relay::{LOOK, READY, SOURCE},
};

/// An etcd that some nodes reach with a delay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Late {
    /// The locations of the cut.
    pub(super) places: [String; 2],
    /// The network namespace of the etcd.
    pub(super) netns: String,
    /// The cgroup of the relay.
    pub(super) cgroup: PathBuf,
    /// The port of the relay.
    pub(super) port: u16,
    pub(super) millis: u32,
    /// The addresses of the other nodes that reach it with a delay.
    pub(super) from: Vec<IpAddr>,
    /// Whether the etcd's node reaches it with a delay too.
    pub(super) own: bool,
}

/// The port of the first relay. No other program in a lab uses it.
const FIRST_PORT: u16 = 23_790;

// === impl Late ===

impl Late {
    /// The port of the nth relay, counted from 0.
    pub(super) fn port(n: usize) -> u16 {
        FIRST_PORT.saturating_add(u16::try_from(n).unwrap_or(u16::MAX))
    }

    fn is(&self, relay: &Relay) -> bool {
        (relay.port, relay.millis, &relay.process.netns) == (self.port, self.millis, &self.netns)
    }
}

// === impl Lab ===

impl Lab {
    /// Starts the relays that do not run yet.
    pub(super) fn start_relays(&mut self, all: &[Late]) -> Result<(), LabError> {
        for late in all {
            let running = |relay: &&Relay| relay.process.liveness() == Liveness::Running;
            if self.state.relays.iter().filter(running).any(|relay| late.is(relay)) {
                continue;
            }
            // A relay on the same port with another delay ends first: no client is redirected to the port before the new
            // one listens.
            self.end_relays(|relay| relay.port == late.port && relay.process.netns == late.netns)?;
            let log = self.name.folder().join("logs").join(format!("relay-{}.log", late.port));
            let mut process = ProcessState {
                name: format!("relay-{}", late.port),
                command: vec![
                    self.state.bin_dir.join("clustermesh").display().to_string(),
                    "lab-pod".into(),
                    "relay".into(),
                    format!("--port={}", late.port),
                    format!("--to-port={ETCD_PORT}"),
                    format!("--delay-ms={}", late.millis),
                ],
                netns: late.netns.clone(),
                cgroup: late.cgroup.clone(),
                environment: Vec::new(),
                log,
                pid: 0,
                start_time: 0,
            };
            process.start()?;
            let listening = wait_listening(&process, late.port);
            self.state.relays.push(Relay { port: late.port, millis: late.millis, process });
            self.save()?;
            listening?;
        }
        Ok(())
    }

    /// Stops the relays that are not needed any more.
    pub(super) fn stop_relays(&mut self, needed: &[Late]) -> Result<(), LabError> {
        self.end_relays(|relay| !needed.iter().any(|late| late.is(relay)))
    }

    fn end_relays(&mut self, over: impl Fn(&Relay) -> bool) -> Result<(), LabError> {
        let relays = self.state.relays.iter_mut().filter(|relay| over(relay));
        let mut relays: Vec<_> = relays.map(|relay| &mut relay.process).collect();
        stop_all(&mut relays, Signal::SIGKILL, &mut |_| {});
        self.state.relays.retain(|relay| !over(relay));
        self.save()
    }
}

/// The nftables table of an etcd's node, which replaces an existing one.
pub(super) fn table<'a>(all: impl Iterator<Item = &'a Late>) -> String {
    let name = format!("inet {TABLE}-late");
    let mut text = format!("table {name}\ndelete table {name}\n");
    let (mut prerouting, mut output, mut ended) = (Vec::new(), Vec::new(), Vec::new());
    for late in all {
        let port = late.port;
        for ip in &late.from {
            let family = if ip.is_ipv4() { "ip" } else { "ip6" };
            prerouting
                .push(format!("{family} saddr {ip} tcp dport {ETCD_PORT} redirect to :{port}"));
            // Packets that were redirected have the relay's port in these chains.
            ended.push(("input", format!("{family} saddr {ip} tcp dport {ETCD_PORT}")));
            ended.push(("output", format!("{family} daddr {ip} tcp sport {ETCD_PORT}")));
        }
        if late.own {
            let to = format!("tcp dport {ETCD_PORT}");
            output.push(format!("oifname lo ip saddr != {SOURCE} {to} redirect to :{port}"));
            output.push(format!("oifname lo meta nfproto ipv6 {to} redirect to :{port}"));
            ended.push(("input", format!("iifname lo ip saddr != {SOURCE} {to}")));
            ended.push(("input", format!("iifname lo meta nfproto ipv6 {to}")));
        }
    }
    if ended.is_empty() {
        return text;
    }
    text.push_str(&format!("table {name} {{\n"));
    let mut chain = |name: &str, what: &str, rules: &[String]| {
        text.push_str(&format!("  chain {name} {{\n    type {what};\n"));
        rules.iter().for_each(|rule| text.push_str(&format!("    {rule}\n")));
        text.push_str("  }\n");
    };
    chain("led", "nat hook prerouting priority -100", &prerouting);
    chain("led-here", "nat hook output priority -100", &output);
    for hook in ["input", "output"] {
        let of = ended.iter().filter(|(other, _)| *other == hook);
        let rules: Vec<String> =
            of.map(|(_, rule)| format!("{rule} reject with tcp reset")).collect();
        chain(&format!("ended-{hook}"), &format!("filter hook {hook} priority filter"), &rules);
    }
    text.push_str("}\n");
    text
}

/// Waits until the relay listens, by the kernel's list of sockets in its network namespace.
fn wait_listening(process: &ProcessState, port: u16) -> Result<(), LabError> {
    let path = format!("/proc/{}/net/tcp6", process.pid);
    let deadline = Instant::now() + READY;
    // The local address and port in hexadecimal, the remote ones, and 0A, which is LISTEN.
    let end = format!(":{port:04X}");
    let listens = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&end)) && fields.nth(1) == Some("0A")
    };
    while !fs::read_to_string(&path).is_ok_and(|table| table.lines().any(listens)) {
        if process.liveness() != Liveness::Running {
            let (name, log) = (process.name.clone(), process.last_words());
            return Err(LabError::Died { name, log });
        }
        if Instant::now() >= deadline {
            return Err(LabError::Timeout(process.name.clone()));
        }
        thread::sleep(LOOK);
    }
    Ok(())
}
