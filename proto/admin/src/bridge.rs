//! Sockets of daemons elsewhere: a command there copies its standard input and output to and from the socket.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, ErrorKind, Read, Write},
    net::Shutdown,
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    thread,
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::SocketError;

/// A connection to a daemon.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that is being opened. Its error says in full why there is none.
pub type Opening = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send>>;

type Open = Arc<dyn Fn() -> Opening + Send + Sync>;

/// What the command writes before anything else: the daemon has accepted a connection.
pub const GREETING: &[u8] = b"clustermesh admin-proxy 1\n";

/// How long the command waits for the rest of an answer after the end of its input. The client has gone by then.
const REST: Duration = Duration::from_secs(10);

/// The paths that are no files, and how they are opened.
static BRIDGES: RwLock<BTreeMap<PathBuf, Open>> = RwLock::new(BTreeMap::new());

/// From now on, [`crate::connect`] to `path` opens connections by `open`, and looks at no file.
pub fn bridge(path: PathBuf, open: impl Fn() -> Opening + Send + Sync + 'static) {
    BRIDGES.write().unwrap_or_else(PoisonError::into_inner).insert(path, Arc::new(open));
}

/// Opens a connection to a daemon.
pub(crate) async fn open(path: &Path) -> Result<Box<dyn Stream>, SocketError> {
    let bridge = BRIDGES.read().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
    match bridge {
        Some(open) => open().await.map_err(|source| SocketError::Bridge { source }),
        None => match tokio::net::UnixStream::connect(path).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(source) => Err(SocketError::Io { path: path.into(), source }),
        },
    }
}

/// The flags of the command `admin-proxy` of a daemon.
#[derive(Clone, Debug, clap::Args)]
pub struct ProxyArgs {
    /// The socket of the daemon's admin API; by default the daemon's default
    #[arg(long, env = "CLUSTERMESH_ADMIN_SOCKET")]
    pub admin_socket: Option<PathBuf>,
}

impl ProxyArgs {
    /// Connects standard input and output with the socket, until one of them ends.
    ///
    /// # Errors
    /// The daemon does not listen on the socket, or the connection breaks.
    pub fn run(self, default: &str) -> Result<(), SocketError> {
        let socket = self.admin_socket.unwrap_or_else(|| default.into());
        let error = |source| SocketError::Io { path: socket.clone(), source };
        // Not the standard library's streams: these wait for a whole line.
        let input = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(error)?);
        let output = File::from(io::stdout().as_fd().try_clone_to_owned().map_err(error)?);
        proxy(&socket, input, output).map_err(error)
    }
}

/// Copies `input` to a socket, and what is answered to `output`, until the daemon ends the connection. The end of `input`
/// ends one direction; the other may last for [`REST`] then.
fn proxy(
    socket: &Path,
    mut input: impl Read + Send + 'static,
    mut output: impl Write,
) -> io::Result<()> {
    let mut answers = UnixStream::connect(socket)?;
    let mut requests = answers.try_clone()?;
    output.write_all(GREETING)?;
    // It ends with the process, where the daemon ends the connection first.
    thread::Builder::new().name("requests".into()).spawn(move || {
        let _ = copy(&mut input, &mut requests);
        let _ = requests.set_read_timeout(Some(REST));
        let _ = requests.shutdown(Shutdown::Write);
    })?;
    let copied = copy(&mut answers, &mut output);
    match copied.map_err(|error| error.kind()) {
        // The client has gone, or the daemon answers nothing more to it.
        Err(ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::WouldBlock) => Ok(()),
        Err(kind) => Err(kind.into()),
        Ok(()) => Ok(()),
    }
}

/// Copies to the end, each piece at once. The standard library would splice: while that waits for a socket, it holds the lock
/// of the pipe, and what was written to the pipe cannot be read.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(buffer.get(..read).unwrap_or_default())?;
        to.flush()?;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::BufRead as _,
        os::{fd::OwnedFd, unix::net::UnixListener},
    };

    use super::*;

    /// A daemon that answers each line with the same line, and at the end of its input with its count of lines.
    fn daemon(folder: &Path) -> PathBuf {
        let socket = folder.join("daemon.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut writer = stream.try_clone().unwrap();
            let mut lines = 0;
            for line in io::BufReader::new(stream).lines() {
                lines += 1;
                writeln!(writer, "{}", line.unwrap()).unwrap();
            }
            write!(writer, "{lines}").unwrap();
        });
        socket
    }

    fn folder(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("mesh-bridge-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_proxy_carries_both_directions_and_the_end_of_one() {
        let folder = folder("proxy");
        let socket = daemon(&folder);
        let (client, stdio) = UnixStream::pair().unwrap();
        let input = stdio.try_clone().unwrap();
        let proxied = thread::spawn(move || proxy(&socket, input, stdio));
        let mut client = io::BufReader::new(client);
        let mut greeting = vec![0; GREETING.len()];
        client.read_exact(&mut greeting).unwrap();
        assert_eq!(greeting, GREETING);
        // An answer comes while the input is open.
        client.get_mut().write_all(b"one\n").unwrap();
        let mut line = String::new();
        client.read_line(&mut line).unwrap();
        assert_eq!(line, "one\n");
        client.get_mut().write_all(b"two\n").unwrap();
        client.get_mut().shutdown(Shutdown::Write).unwrap();
        let mut rest = String::new();
        // The daemon's end is the proxy's.
        proxied.join().unwrap().unwrap();
        client.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "two\n2");
        std::fs::remove_dir_all(folder).unwrap();
    }

    /// As in a pod: standard input and output are pipes. What was answered can be read while the daemon is waited for.
    #[test]
    fn answers_leave_a_pipe_at_once() {
        let folder = folder("pipe");
        let socket = daemon(&folder);
        let (input, mut requests) = io::pipe().unwrap();
        let (answers, output) = io::pipe().unwrap();
        let files = [File::from(OwnedFd::from(input)), File::from(OwnedFd::from(output))];
        thread::spawn(move || {
            let [input, output] = files;
            proxy(&socket, input, output)
        });
        let (sender, received) = std::sync::mpsc::channel();
        thread::spawn(move || {
            for line in io::BufReader::new(answers).lines() {
                sender.send(line.unwrap()).unwrap();
            }
        });
        let next = || received.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(next().as_bytes(), GREETING.trim_ascii_end());
        for line in ["one", "two", "three"] {
            writeln!(requests, "{line}").unwrap();
            assert_eq!(next(), line);
        }
        drop(requests);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_daemon_that_does_not_run_is_not_greeted_for() {
        let folder = folder("none");
        let (client, stdio) = UnixStream::pair().unwrap();
        let input = stdio.try_clone().unwrap();
        let error = proxy(&folder.join("none.sock"), input, stdio).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let mut said = String::new();
        { client }.read_to_string(&mut said).unwrap();
        assert_eq!(said, "");
        std::fs::remove_dir_all(folder).unwrap();
    }

    /// A path that stands for a daemon elsewhere is opened by its bridge, each time anew; its error is the whole message.
    #[tokio::test]
    async fn a_bridge_stands_for_a_socket() {
        let path = PathBuf::from("elsewhere:/agent");
        bridge(path.clone(), || {
            Box::pin(async { Err(io::Error::other("the node n1 is NotReady")) })
        });
        let error = crate::connect(&path).await.unwrap_err();
        assert_eq!(error.to_string(), "the node n1 is NotReady");
        assert!(!error.is_forbidden());
        let folder = folder("bridge");
        let socket = folder.join("agent.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let there = socket.clone();
        bridge(path.clone(), move || {
            let there = there.clone();
            Box::pin(async move {
                let stream = tokio::net::UnixStream::connect(there).await?;
                Ok(Box::new(stream) as Box<dyn Stream>)
            })
        });
        let (opened, accepted) = tokio::join!(open(&path), listener.accept());
        assert!(opened.is_ok() && accepted.is_ok());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
