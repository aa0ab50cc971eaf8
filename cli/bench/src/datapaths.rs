//! The datapaths that are compared. Each has a client in a network namespace with a link to the servers' namespace.

use std::{
    io::Write as _,
    process::{self, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    backends,
    clean_up::NETNS,
    client::Client,
    command::run,
    error::{BenchError, io},
    rules,
    sandbox::Sandbox,
};

/// A client with its network namespace.
pub(crate) struct Datapath {
    netns: String,
    pub(crate) client: Client,
}

/// kube-proxy's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    /// kube-proxy's nftables mode.
    Nftables,
    /// kube-proxy's iptables mode, by iptables-nft.
    Iptables,
}

/// Routes all addresses of backends to this thread's network namespace.
pub(crate) fn serve_here() -> Result<(), BenchError> {
    run(Command::new("ip").args(["route", "add", "local", backends::RANGE, "dev", "lo"])).map(drop)
}

impl Datapath {
    /// Creates the datapath with this number, whose client is in the sandbox's cgroup or in none.
    pub(crate) fn new(sandbox: &Sandbox, number: u8, in_cgroup: bool) -> Result<Self, BenchError> {
        let netns = format!("{NETNS}{}-{number}", process::id());
        let link = format!("cmbench{number}");
        let ip = |words: &str| run(Command::new("ip").args(words.split(' '))).map(drop);
        ip(&format!("netns add {netns}"))?;
        let made = || -> Result<Client, BenchError> {
            ip(&format!("link add {link} type veth peer name eth0 netns {netns}"))?;
            ip(&format!("address add 10.200.{number}.1/24 dev {link}"))?;
            ip(&format!("link set {link} up"))?;
            ip(&format!("-n {netns} address add 10.200.{number}.2/24 dev eth0"))?;
            ip(&format!("-n {netns} link set eth0 up"))?;
            ip(&format!("-n {netns} link set lo up"))?;
            ip(&format!("-n {netns} route add default via 10.200.{number}.1"))?;
            Client::start(Some(&netns), in_cgroup.then_some(sandbox.cgroup.as_path()))
        };
        let client = made();
        match client {
            Ok(client) => Ok(Self { netns, client }),
            Err(error) => {
                let _ = ip(&format!("netns del {netns}"));
                Err(error)
            }
        }
    }

    /// Replaces all rules by those of kube-proxy for this many services.
    pub(crate) fn load(&self, rules: Rules, services: u32, port: u16) -> Result<(), BenchError> {
        match rules {
            Rules::Nftables => self.feed(&["nft", "-f", "-"], &rules::nftables(0..services, port)),
            Rules::Iptables => {
                self.feed(&["iptables-nft-restore"], &rules::iptables(0..services, port))
            }
        }
    }

    /// Adds one service to the rules, and returns the time that it took.
    pub(crate) fn add(
        &self,
        rules: Rules,
        service: u32,
        port: u16,
    ) -> Result<Duration, BenchError> {
        let one = service..service + 1;
        let begin = Instant::now();
        match rules {
            Rules::Nftables => self.feed(&["nft", "-f", "-"], &rules::nftables_more(one, port))?,
            Rules::Iptables => {
                self.feed(&["iptables-nft-restore", "--noflush"], &rules::iptables_more(one, port))?
            }
        }
        Ok(begin.elapsed())
    }

    fn feed(&self, command: &[&str], text: &str) -> Result<(), BenchError> {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.netns])
            .args(command)
            .stdin(Stdio::piped())
            .spawn()
            .map_err(io("rules of another proxy"))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(text.as_bytes()).map_err(io("rules of another proxy"))?;
        }
        match child.wait().map_err(io("rules of another proxy"))?.success() {
            true => Ok(()),
            false => Err(BenchError::Command {
                command: command.join(" "),
                printed: "its message is above".into(),
            }),
        }
    }
}

impl Drop for Datapath {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.netns]).status();
    }
}
