//! A way to a port that can be held up: what is on it waits, and nothing is lost.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// Passes on what goes to a port of its own, both ways. Ends with the test's process.
#[derive(Clone, Debug)]
pub struct Relay {
    port: u16,
    back: Arc<Back>,
}

/// What happens to what comes back.
#[derive(Debug)]
struct Back {
    /// How many bytes may still come.
    left: AtomicI64,
    /// How long each part waits, in milliseconds.
    delay: AtomicU64,
}

/// More than anybody sends here.
const ALL: i64 = i64::MAX / 2;

impl Relay {
    /// A way to a port on loopback.
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let own = listener.local_addr().expect("an address").port();
        let back = || Arc::new(Back { left: AtomicI64::new(ALL), delay: AtomicU64::new(0) });
        let relay = Self { port: own, back: back() };
        let shared = Arc::clone(&relay.back);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Nobody there is a connection that is closed at once.
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { continue };
                let twin = |stream: &TcpStream| stream.try_clone().expect("a socket");
                let (from_client, to_server) = (twin(&client), twin(&server));
                let (there, back) = (back(), Arc::clone(&shared));
                thread::spawn(move || pass(from_client, to_server, &there));
                thread::spawn(move || pass(server, client, &back));
            }
        });
        relay
    }

    /// Its own port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Lets so many bytes more come back, and then none.
    pub fn hold_after(&self, bytes: i64) {
        self.back.left.store(bytes, Ordering::SeqCst);
    }

    /// Whether it is held up.
    pub fn is_held(&self) -> bool {
        self.back.left.load(Ordering::SeqCst) <= 0
    }

    /// Makes each part that comes back wait: a round trip takes so much longer.
    pub fn delay(&self, time: Duration) {
        self.back.delay.store(time.as_millis().try_into().unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Lets everything pass.
    pub fn release(&self) {
        self.back.left.store(ALL, Ordering::SeqCst);
    }
}

fn pass(mut from: impl Read, mut to: TcpStream, Back { left, delay }: &Back) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        thread::sleep(Duration::from_millis(delay.load(Ordering::SeqCst)));
        while left.load(Ordering::SeqCst) <= 0 {
            thread::sleep(Duration::from_millis(5));
        }
        left.fetch_sub(length.try_into().unwrap_or(ALL), Ordering::SeqCst);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
