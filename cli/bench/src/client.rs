//! The process whose connections are measured. It reads orders and answers with nanoseconds, one line each.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::socket::{setsockopt, sockopt},
    time::{ClockId, clock_gettime},
};

use crate::error::{BenchError, file, io as io_error};

/// The protocol of the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    pub(crate) const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// The step from one service to the next: a prime, so that all services come in turn.
const STRIDE: u32 = 7_919;

/// A client process.
pub(crate) struct Client {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Client {
    /// Starts a client, in a network namespace and a cgroup if they are given.
    pub(crate) fn start(netns: Option<&str>, cgroup: Option<&Path>) -> Result<Self, BenchError> {
        let own = std::env::current_exe().map_err(io_error("this executable"))?;
        let mut command = match netns {
            // `ip netns exec` replaces itself by the program, so this is one process.
            Some(netns) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", netns]).arg(own);
                command
            }
            None => Command::new(own),
        };
        command.args(["bench", "client"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().map_err(io_error("a client"))?;
        let pipes = process.stdin.take().zip(process.stdout.take());
        let (orders, answers) =
            pipes.ok_or_else(|| BenchError::Unexpected("a client without pipes".into()))?;
        let client = Self { process, orders, answers: BufReader::new(answers) };
        if let Some(cgroup) = cgroup {
            let procs = cgroup.join("cgroup.procs");
            std::fs::write(&procs, client.process.id().to_string()).map_err(file(procs))?;
        }
        Ok(client)
    }

    /// The CPU time of `count` connects, in nanoseconds: to one address, or to `span` addresses from there on in an order
    /// that misses caches.
    pub(crate) fn connect(
        &mut self,
        transport: Transport,
        to: SocketAddrV4,
        span: u32,
        count: u32,
    ) -> Result<u64, BenchError> {
        writeln!(self.orders, "{} {to} {span} {count}", transport.name())
            .map_err(io_error("an order to a client"))?;
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(io_error("a client's answer"))?;
        line.trim().parse().map_err(|_| {
            BenchError::Unexpected(format!(
                "a client could not connect to {to}: its message is above"
            ))
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The process that `Client` starts: carries out the orders on standard input until it ends.
pub fn client() -> io::Result<()> {
    let mut at: u32 = 0;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let invalid = || io::Error::new(io::ErrorKind::InvalidInput, line.clone());
        let mut words = line.split(' ');
        let transport = words.next().ok_or_else(invalid)?;
        let to: SocketAddrV4 =
            words.next().and_then(|word| word.parse().ok()).ok_or_else(invalid)?;
        let span: u32 = words.next().and_then(|word| word.parse().ok()).ok_or_else(invalid)?;
        let count = words.next().and_then(|word| word.parse().ok()).ok_or_else(invalid)?;
        let mut next = || {
            at = at.wrapping_add(STRIDE);
            let ip = Ipv4Addr::from_bits(to.ip().to_bits() + at % span.max(1));
            SocketAddr::from((ip, to.port()))
        };
        let nanos = match transport {
            "tcp" => measure(count, || connect_tcp(next()))?,
            "udp" => measure(count, || connect_udp(next()))?,
            _ => return Err(invalid()),
        };
        let mut out = io::stdout().lock();
        writeln!(out, "{nanos}")?;
        out.flush()?;
    }
    Ok(())
}

/// The CPU time of `count` connects. `connect` returns its CPU time, without what it does before and after.
fn measure(count: u32, mut connect: impl FnMut() -> io::Result<Duration>) -> io::Result<u128> {
    let mut total = Duration::ZERO;
    for _ in 0..count {
        total += connect()?;
    }
    Ok(total.as_nanos())
}

fn connect_tcp(to: SocketAddr) -> io::Result<Duration> {
    let begin = cpu()?;
    let stream = TcpStream::connect(to)?;
    let taken = cpu()?.saturating_sub(begin);
    // Closes with a reset: tens of thousands of sockets in TIME_WAIT would affect the results.
    setsockopt(&stream, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
    Ok(taken)
}

fn connect_udp(to: SocketAddr) -> io::Result<Duration> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let begin = cpu()?;
    socket.connect(to)?;
    Ok(cpu()?.saturating_sub(begin))
}

fn cpu() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}
