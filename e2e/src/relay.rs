//! A TCP relay that can hold data back or delay it. It loses nothing.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

/// Forwards connections from its own port. Ends with the test's process.
#[derive(Clone, Debug)]
pub struct Relay {
    port: u16,
    back: Arc<Direction>,
}

/// One of the two directions.
#[derive(Debug)]
struct Direction {
    /// How many bytes may still pass.
    left: AtomicI64,
    /// The delay in milliseconds.
    delay: AtomicU64,
}

/// No limit: more bytes than any client sends.
const ALL: i64 = i64::MAX / 2;

// === impl Relay ===

impl Relay {
    /// A relay to a port on loopback.
    pub fn to(port: u16) -> Self {
        Self::far(port, Duration::ZERO)
    }

    /// The same, with a delay in each direction.
    pub fn far(port: u16, delay: Duration) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let own = listener.local_addr().expect("an address").port();
        let relay = Self { port: own, back: Direction::new(delay) };
        let back = Arc::clone(&relay.back);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Without a server, close the connection at once.
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { continue };
                let twin = |stream: &TcpStream| stream.try_clone().expect("a socket");
                let (from_client, to_server) = (twin(&client), twin(&server));
                thread::spawn(move || pass(from_client, to_server, Direction::new(delay)));
                let back = Arc::clone(&back);
                thread::spawn(move || pass(server, client, back));
            }
        });
        relay
    }

    /// The port of the relay.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Forwards this number of bytes from the server, and then holds back the rest.
    pub fn hold_after(&self, bytes: i64) {
        self.back.left.store(bytes, Ordering::SeqCst);
    }

    /// Whether it holds data back.
    pub fn is_held(&self) -> bool {
        self.back.left.load(Ordering::SeqCst) <= 0
    }

    /// Sets the delay of data from the server.
    pub fn delay(&self, time: Duration) {
        self.back.delay.store(milliseconds(time), Ordering::SeqCst);
    }

    /// Forwards everything again.
    pub fn release(&self) {
        self.back.left.store(ALL, Ordering::SeqCst);
    }
}

// === impl Direction ===

impl Direction {
    fn new(delay: Duration) -> Arc<Self> {
        let delay = AtomicU64::new(milliseconds(delay));
        Arc::new(Self { left: AtomicI64::new(ALL), delay })
    }

    fn delay(&self) -> Duration {
        Duration::from_millis(self.delay.load(Ordering::SeqCst))
    }
}

fn milliseconds(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}

fn pass(mut from: impl Read, mut to: TcpStream, direction: Arc<Direction>) {
    let (sender, under_way) = mpsc::channel::<(Instant, Vec<u8>)>();
    let at_the_end = Arc::clone(&direction);
    let writer = thread::spawn(move || {
        for (arrives, bytes) in under_way {
            thread::sleep(arrives.saturating_duration_since(Instant::now()));
            while at_the_end.left.load(Ordering::SeqCst) <= 0 {
                thread::sleep(Duration::from_millis(5));
            }
            at_the_end.left.fetch_sub(bytes.len().try_into().unwrap_or(ALL), Ordering::SeqCst);
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if sender.send((Instant::now() + direction.delay(), buffer[..length].to_vec())).is_err() {
            break;
        }
    }
    drop(sender);
    let _ = writer.join();
}
