//! The kernel's answers to probes: frames made byte by byte on one end of a veth, and what comes back.
//!
//! Nothing here is taken from the programs: headers and checksums are worked out once more.

use std::{
    collections::BTreeSet,
    net::{Ipv6Addr, UdpSocket},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use mesh_dataplane::{AnswerState, PinRoot, ProbeAnswer};
use mesh_layout::probe::{self, Datagram};
use mesh_sys::{Link, programs_at_ingress};

use crate::*;

const PORT: u16 = 9984;
const ASKER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A node in this thread's network namespace, and one that asks at the other end of a veth.
struct Nodes {
    place: Place,
    asker: String,
    /// The node's end.
    index: u32,
    raw: OwnedFd,
}

/// The addresses of one family.
#[derive(Clone, Copy, Debug)]
struct Family {
    asker: IpAddr,
    node: IpAddr,
    /// Another address of the node's, which is none that others ask.
    pod: IpAddr,
    /// An address that is routed on.
    beyond: IpAddr,
}

const V4: Family = Family {
    asker: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    node: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
    pod: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 3)),
    beyond: IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
};
const V6: Family = Family {
    asker: IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1)),
    node: IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2)),
    pod: IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 3)),
    beyond: IpAddr::V6(Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 1)),
};

/// A frame in its parts, to be made otherwise than it should be.
#[derive(Clone, Debug)]
struct Frame {
    to_mac: [u8; 6],
    from_mac: [u8; 6],
    from: IpAddr,
    to: IpAddr,
    from_port: u16,
    to_port: u16,
    datagram: Vec<u8>,
    /// Made once all else is.
    twist: fn(&mut Vec<u8>),
    /// What UDP's checksum is; `None`: right.
    checksum: Option<u16>,
}

/// What is otherwise than in a question.
type Row = (&'static str, fn(&mut Frame));

impl Frame {
    fn question(family: Family, nonce: u64) -> Self {
        Self {
            to_mac: NODE_MAC,
            from_mac: ASKER_MAC,
            from: family.asker,
            to: family.node,
            from_port: 40_000,
            to_port: PORT,
            datagram: probe::question(nonce).to_vec(),
            twist: |_| (),
            checksum: None,
        }
    }

    fn with(self, change: fn(&mut Self)) -> Self {
        let mut frame = self;
        change(&mut frame);
        frame
    }

    fn bytes(&self) -> Vec<u8> {
        let Self { from, to, datagram, .. } = self;
        let length = u16::try_from(8 + datagram.len()).unwrap();
        let mut udp = [self.from_port.to_be_bytes(), self.to_port.to_be_bytes()].concat();
        udp.extend(length.to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(datagram);
        let right = udp_checksum(*from, *to, &udp);
        udp[6..8].copy_from_slice(&self.checksum.unwrap_or(right).to_be_bytes());
        let mut frame = [self.to_mac, self.from_mac].concat();
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                frame.extend([8, 0]);
                let mut ip = vec![0x45, 0];
                ip.extend((20 + length).to_be_bytes());
                // Not to be fragmented; over some routers already.
                ip.extend([0x12, 0x34, 0x40, 0, 9, 17, 0, 0]);
                ip.extend(from.octets());
                ip.extend(to.octets());
                let checksum = !sum(&ip);
                ip[10..12].copy_from_slice(&checksum.to_be_bytes());
                frame.extend(ip);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                frame.extend([0x86, 0xdd]);
                frame.extend([0x6a, 0xbc, 0xde, 0xf0]);
                frame.extend(length.to_be_bytes());
                frame.extend([17, 9]);
                frame.extend(from.octets());
                frame.extend(to.octets());
            }
            _ => panic!("two families"),
        }
        frame.extend(udp);
        (self.twist)(&mut frame);
        frame
    }

    /// The answer: the other way round, with the hops of a new packet.
    fn answer(&self, datagram: Vec<u8>) -> Vec<u8> {
        let (to_mac, from_mac) = (self.from_mac, self.to_mac);
        let (from, to, from_port, to_port) = (self.to, self.from, self.to_port, self.from_port);
        let checksum = self.checksum.filter(|sum| *sum == 0);
        let twist: fn(&mut Vec<u8>) = |frame| match frame[12] {
            8 => {
                frame[22] = 64;
                mend_ip(frame);
            }
            _ => frame[21] = 64,
        };
        let answer =
            Self { to_mac, from_mac, from, to, from_port, to_port, datagram, twist, checksum };
        answer.bytes()
    }
}

/// The sum of 16-bit words, as all of IP's checksums have it.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

fn udp_checksum(from: IpAddr, to: IpAddr, udp: &[u8]) -> u16 {
    let mut bytes = Vec::new();
    for ip in [from, to] {
        match ip {
            IpAddr::V4(ip) => bytes.extend(ip.octets()),
            IpAddr::V6(ip) => bytes.extend(ip.octets()),
        }
    }
    bytes.extend([0, 17]);
    bytes.extend(u16::try_from(udp.len()).unwrap().to_be_bytes());
    bytes.extend(udp);
    match !sum(&bytes) {
        0 => 0xffff,
        checksum => checksum,
    }
}

/// Has the checksum of an IPv4 header be right again.
fn mend_ip(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let length = usize::from(frame[14] & 15) * 4;
    let checksum = !sum(&frame[14..14 + length]);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
}

impl Nodes {
    fn new(name: &str) -> Self {
        let place = Place::new(name);
        let asker = format!("clustermesh-probe-{}-{name}", std::process::id());
        run("ip", &["netns", "add", &asker]);
        run("ip", &["link", "add", "node0", "type", "veth", "peer", "name", "asker0"]);
        run("ip", &["link", "set", "asker0", "netns", &asker]);
        let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
        run("ip", &["link", "set", "node0", "address", &mac(NODE_MAC), "up"]);
        run("ip", &["-n", &asker, "link", "set", "asker0", "address", &mac(ASKER_MAC), "up"]);
        for (ip, length) in [(V4, 24), (V6, 64)] {
            let at = |ip: IpAddr| format!("{ip}/{length}");
            for address in [at(ip.node), at(ip.pod)] {
                run("ip", &["address", "add", &address, "dev", "node0", "nodad"]);
            }
            run("ip", &["-n", &asker, "address", "add", &at(ip.asker), "dev", "asker0", "nodad"]);
        }
        let index = index_of("node0");
        let raw = in_netns(&asker, || packet_socket("asker0"));
        Self { place, asker, index, raw }
    }

    fn load(&self) -> ProbeAnswer {
        ProbeAnswer::load(PinRoot::open(&self.place.pins).unwrap()).unwrap()
    }

    /// One that answers at both of the node's addresses.
    fn answering(&self) -> ProbeAnswer {
        let mut answer = self.load();
        answer.set_addresses(&[V4.node, V6.node].into(), PORT).unwrap();
        answer.set_interfaces(&[self.index].into(), Instant::now()).unwrap();
        assert_eq!(states(&answer), [(self.index, AnswerState::Answers)]);
        answer
    }

    fn send(&self, frame: &[u8]) {
        assert_eq!(nix::unistd::write(&self.raw, frame).unwrap(), frame.len());
    }

    /// The next datagram from the node's port that comes, in its frame.
    fn receive(&self) -> Vec<u8> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            assert!(Instant::now() < deadline, "nothing comes");
            let mut frame = vec![0; 256];
            match nix::unistd::read(&self.raw, &mut frame) {
                Ok(length) => frame.truncate(length),
                Err(nix::errno::Errno::EAGAIN) => continue,
                Err(error) => panic!("{error}"),
            }
            let (udp, protocol) = if frame[12] == 8 { (34, 23) } else { (54, 20) };
            let from_port = PORT.to_be_bytes();
            if frame[protocol] == 17 && frame.get(udp..udp + 2) == Some(&from_port) {
                return frame;
            }
        }
    }

    /// Whether a frame is answered: the next question certainly is, and comes after it.
    fn is_answered(&self, frame: &[u8], nonce: u64) -> bool {
        self.send(frame);
        self.send(&Frame::question(V4, nonce).bytes());
        let mut is_answered = false;
        loop {
            let answer = self.receive();
            match probe::parse(&answer[42.min(answer.len())..]) {
                Some(Datagram::Answer { nonce: found, .. })
                    if answer[12] == 8 && found == nonce =>
                {
                    return is_answered;
                }
                _ => is_answered = true,
            }
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.asker]).status();
    }
}

fn index_of(interface: &str) -> u32 {
    nix::net::if_::if_nametoindex(interface).unwrap()
}

fn states(answer: &ProbeAnswer) -> Vec<(u32, AnswerState)> {
    answer.interfaces().map(|(index, state)| (index, state.clone())).collect()
}

/// Does something in another network namespace, in a thread that ends there.
fn in_netns<T: Send>(name: &str, there: impl FnOnce() -> T + Send) -> T {
    let netns = fs::File::open(Path::new("/run/netns").join(name)).unwrap();
    thread::scope(|scope| {
        let there = || {
            nix::sched::setns(&netns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            there()
        };
        scope.spawn(there).join().unwrap()
    })
}

/// A socket for whole frames of an interface.
fn packet_socket(interface: &str) -> OwnedFd {
    let index = index_of(interface);
    let all = u16::try_from(libc::ETH_P_ALL).unwrap();
    let protocol = i32::from(all.to_be());
    // SAFETY: no pointer is handed over.
    #[expect(unsafe_code, reason = "no safe binding has it")]
    let socket = unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, protocol);
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: an address of the given size, and a time likewise.
    #[expect(unsafe_code, reason = "no safe binding has it")]
    unsafe {
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
        address.sll_protocol = all.to_be();
        address.sll_ifindex = i32::try_from(index).unwrap();
        let length = u32::try_from(size_of_val(&address)).unwrap();
        assert_eq!(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length), 0);
        let patience = libc::timeval { tv_sec: 1, tv_usec: 0 };
        let length = u32::try_from(size_of_val(&patience)).unwrap();
        let set = libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const patience).cast(),
            length,
        );
        assert_eq!(set, 0);
    }
    socket
}

/// The datagram of an answer to a question of the present version.
fn answer_to(nonce: u64, rate: u32) -> Vec<u8> {
    probe::answer(nonce, probe::BY_KERNEL, rate).to_vec()
}

/// A question of the previous minor, and its answer.
fn previous(mark: u8, nonce: u64) -> Vec<u8> {
    [b"CMp1".as_slice(), &[mark], &nonce.to_be_bytes()].concat()
}

/// The answer is the question the other way round, byte by byte, with sums that are right.
#[test]
fn the_kernel_answers_byte_by_byte() {
    let nodes = Nodes::new("answers");
    let answer = nodes.answering();
    let rate_of = |frame: &[u8]| {
        let rate: [u8; 4] = frame[frame.len() - 4..].try_into().unwrap();
        u32::from_be_bytes(rate)
    };
    let mut asked = 0;
    for family in [V4, V6] {
        for nonce in [0, 1, 0x0102_0304_0506_0708, u64::MAX] {
            let question = Frame::question(family, nonce);
            nodes.send(&question.bytes());
            let found = nodes.receive();
            // Which it was in the last second is another test's.
            assert_eq!(found, question.answer(answer_to(nonce, rate_of(&found))), "{family:?}");
            let question = question.with(|frame| frame.from_port = 1);
            let question = Frame { datagram: previous(b'?', nonce), ..question };
            nodes.send(&question.bytes());
            assert_eq!(nodes.receive(), question.answer(previous(b'!', nonce)), "{family:?}");
            asked += 2;
        }
    }
    // Without a checksum, which only IPv4 may be; as long as the shortest frame of an Ethernet.
    let bare = Frame::question(V4, 7).with(|frame| frame.checksum = Some(0));
    nodes.send(&bare.bytes());
    let found = nodes.receive();
    assert_eq!(found, bare.answer(answer_to(7, rate_of(&found))));
    let padded = Frame { datagram: previous(b'?', 9), ..Frame::question(V4, 0) };
    let padded = padded.with(|frame| frame.twist = |bytes| bytes.resize(60, 0));
    nodes.send(&padded.bytes());
    let mut expected = padded.answer(previous(b'!', 9));
    expected.resize(60, 0);
    assert_eq!(nodes.receive(), expected);
    assert_eq!(answer.answered(), asked + 2);
}

/// Every clause by which something is no question. What is passed on is not answered, and the next question is.
#[test]
fn whatever_is_no_question_is_passed_on() {
    let nodes = Nodes::new("clauses");
    let _answer = nodes.answering();
    let both: &[Row] = &[
        ("to another address of the node", |f| f.to = if f.to.is_ipv4() { V4.pod } else { V6.pod }),
        ("to be routed on", |f| f.to = if f.to.is_ipv4() { V4.beyond } else { V6.beyond }),
        ("to everyone on the link", |f| f.to_mac = [0xff; 6]),
        ("to a group on the link", |f| f.to_mac = [1, 0, 0x5e, 0, 0, 1]),
        ("to another on the link", |f| f.to_mac = [2, 0, 0, 0, 0, 9]),
        ("from a group on the link", |f| f.from_mac[0] |= 1),
        ("from an address of ours", |f| f.from = f.to),
        ("to another port", |f| f.to_port = PORT + 1),
        ("from no port", |f| f.from_port = 0),
        ("a byte longer", |f| f.datagram.push(0)),
        ("a byte shorter", |f| f.datagram.truncate(19)),
        ("nothing at all", |f| f.datagram.clear()),
        ("a byte behind the packet", |f| f.twist = |bytes| bytes.push(0)),
        ("another mark", |f| f.datagram[3] = b'3'),
        ("the mark of the other version", |f| f.datagram[3] = b'1'),
        ("an answer", |f| f.datagram[4] = b'!'),
        ("who answered, in a question", |f| f.datagram[5] = 1),
        ("a byte that is to be zero", |f| f.datagram[7] = 1),
        ("an answer of the version before", |f| f.datagram = previous(b'!', 1)),
        ("a mark of this version at the length before", |f| {
            f.datagram = previous(b'?', 1);
            f.datagram[3] = b'2';
        }),
        ("in a VLAN", |f| {
            f.twist = |bytes| {
                bytes.splice(12..12, [0x81, 0, 0, 7]);
            };
        }),
        ("of no family", |f| f.twist = |bytes| bytes[13] = 0x99),
    ];
    let v4: &[Row] = &[
        ("with options", |f| {
            f.twist = |bytes| {
                bytes.splice(34..34, [1, 1, 1, 1]);
                bytes[14] = 0x46;
                bytes[17] += 4;
                mend_ip(bytes);
            };
        }),
        ("of another version", |f| {
            f.twist = |bytes| {
                bytes[14] = 0x55;
                mend_ip(bytes);
            }
        }),
        ("with more fragments", |f| {
            f.twist = |bytes| {
                bytes[20] = 0x20;
                mend_ip(bytes);
            }
        }),
        ("a later fragment", |f| {
            f.twist = |bytes| {
                bytes[21] = 1;
                mend_ip(bytes);
            }
        }),
        ("of another protocol", |f| {
            f.twist = |bytes| {
                bytes[23] = 6;
                mend_ip(bytes);
            }
        }),
        ("shorter than its frame by its header", |f| {
            f.twist = |bytes| {
                bytes[17] -= 1;
                mend_ip(bytes);
            }
        }),
        ("of another length by UDP's header", |f| f.twist = |bytes| bytes[39] -= 1),
        ("from no address", |f| f.from = Ipv4Addr::UNSPECIFIED.into()),
        ("from itself", |f| f.from = Ipv4Addr::LOCALHOST.into()),
        ("from a group", |f| f.from = Ipv4Addr::new(224, 0, 0, 1).into()),
        ("from everyone", |f| f.from = Ipv4Addr::BROADCAST.into()),
    ];
    let v6: &[Row] = &[
        ("with an extension", |f| {
            f.twist = |bytes| {
                bytes.splice(54..54, [17, 0, 1, 4, 0, 0, 0, 0]);
                (bytes[19], bytes[20]) = (bytes[19] + 8, 0);
            }
        }),
        ("a fragment", |f| {
            f.twist = |bytes| {
                bytes.splice(54..54, [17, 0, 0, 1, 0, 0, 0, 9]);
                (bytes[19], bytes[20]) = (bytes[19] + 8, 44);
            }
        }),
        ("of another version", |f| f.twist = |bytes| bytes[14] = 0x50),
        ("of another protocol", |f| f.twist = |bytes| bytes[20] = 6),
        ("shorter than its frame by its header", |f| f.twist = |bytes| bytes[19] -= 1),
        ("of another length by UDP's header", |f| f.twist = |bytes| bytes[59] -= 1),
        ("without a checksum", |f| f.checksum = Some(0)),
        ("from no address", |f| f.from = Ipv6Addr::UNSPECIFIED.into()),
        ("from itself", |f| f.from = Ipv6Addr::LOCALHOST.into()),
        ("from a group", |f| f.from = "ff02::1".parse().unwrap()),
    ];
    let mut nonce = 1_000;
    for (family, rows) in [(V4, [both, v4]), (V6, [both, v6])] {
        for (what, change) in rows.into_iter().flatten() {
            nonce += 2;
            let frame = Frame::question(family, nonce).with(*change).bytes();
            assert!(!nodes.is_answered(&frame, nonce + 1), "{what}: {family:?}");
        }
        let good = Frame::question(family, 1).bytes();
        assert!(nodes.is_answered(&good, 2));
    }
}

/// Sockets on both ends: sums that the sender's kernel has left to others come out right; what is no question of the
/// kernel's is the agent's, and so is everything where the kernel does not answer.
#[test]
fn sockets_are_answered_by_the_kernel_or_else_by_the_agent() {
    let nodes = Nodes::new("sockets");
    let answer = nodes.answering();
    for family in [V4, V6] {
        let agent = UdpSocket::bind((family.node, PORT)).unwrap();
        let asker = in_netns(&nodes.asker, || UdpSocket::bind((family.asker, 0)).unwrap());
        for socket in [&agent, &asker] {
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        }
        let mut datagram = [0; 64];
        for nonce in 0..20 {
            asker.send_to(&probe::question(nonce), (family.node, PORT)).unwrap();
            let (length, from) = asker.recv_from(&mut datagram).unwrap();
            assert_eq!(from, (family.node, PORT).into());
            let found = probe::parse(&datagram[..length]).unwrap();
            assert!(
                matches!(found, Datagram::Answer { nonce: of, by_kernel: true, .. } if of == nonce),
                "{found:?}"
            );
        }
        // Nothing of that reached the agent's socket: what it receives first is what is none of the kernel's.
        asker.send_to(b"CMp9?", (family.node, PORT)).unwrap();
        let (length, _) = agent.recv_from(&mut datagram).unwrap();
        assert_eq!(&datagram[..length], b"CMp9?");
    }
    // It goes on without its agent, and for the next one.
    let answered = answer.answered();
    drop(answer);
    nodes.send(&Frame::question(V4, 1).bytes());
    nodes.receive();
    let link =
        || Link::open(&nodes.place.pins.join("probe").join(nodes.index.to_string())).unwrap();
    let before = link().info().unwrap();
    let next = nodes.answering();
    let after = link().info().unwrap();
    assert_eq!(
        (before.id, before.program != after.program),
        (after.id, true),
        "exchanged in place"
    );
    assert_eq!(next.answered(), answered + 1);
    next.detach().unwrap();
    let agent = UdpSocket::bind((V4.node, PORT)).unwrap();
    nodes.send(&Frame::question(V4, 2).bytes());
    let mut datagram = [0; 64];
    let (length, _) = agent.recv_from(&mut datagram).unwrap();
    assert_eq!(probe::parse(&datagram[..length]), Some(Datagram::Question { nonce: 2 }));
}

/// Seconds since the machine's start, as the kernel's program counts them.
fn second() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).unwrap();
    u64::try_from(now.tv_sec()).unwrap()
}

/// Answers contain their number in the last full second, and no question is left unanswered however many there are.
#[test]
fn answers_say_the_rate_of_the_last_second() {
    let nodes = Nodes::new("rate");
    let answer = nodes.answering();
    let ask = |nonce| {
        nodes.send(&Frame::question(V4, nonce).bytes());
        match probe::parse(&nodes.receive()[42..]) {
            Some(Datagram::Answer { nonce: found, rate, .. }) if found == nonce => rate,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask(0), 0, "there was none before");
    let mut asked = 1;
    // As often as it takes until all of it falls into one second, and the next question into the one after it.
    loop {
        let begin = second();
        while second() == begin {}
        let during = second();
        let rates: BTreeSet<u32> = (0..500).map(ask).collect();
        asked += 500;
        let is_whole = second() == during;
        while second() == during {}
        let next = second();
        let rate = ask(7);
        asked += 1;
        if is_whole && next == during + 1 && second() == next {
            assert_eq!(rate, 500);
            assert_eq!(rates.len(), 1, "within a second it is the same: {rates:?}");
            break;
        }
    }
    assert_eq!(answer.answered(), asked);
    // Nothing for a second: none.
    let begin = second();
    while second() < begin + 2 {}
    assert_eq!(ask(8), 0);
}

/// It is first of all programs, stays first, is restored when it was removed, and is at no interface that it was not
/// given.
#[test]
fn it_is_first_and_stays_where_it_was_attached() {
    let nodes = Nodes::new("first");
    let now = Instant::now();
    let stranger_pins = PathBuf::from(format!("{}-other", nodes.place.pins.display()));
    let load_stranger = || ProbeAnswer::load(PinRoot::open(&stranger_pins).unwrap()).unwrap();
    let mut stranger = load_stranger();
    // One that has no address answers nothing.
    stranger.set_interfaces(&[nodes.index].into(), now).unwrap();
    let mut answer = nodes.answering();
    let pin = |pins: &Path| pins.join("probe").join(nodes.index.to_string());
    let id = |pins: &Path| Link::open(&pin(pins)).unwrap().info().unwrap().id;
    let order = || -> Vec<u32> {
        programs_at_ingress(nodes.index).unwrap().into_iter().map(|(_, link)| link).collect()
    };
    assert_eq!(order(), [id(&nodes.place.pins), id(&stranger_pins)]);
    assert_eq!(answer.audit(now).unwrap(), 0);

    // The other one comes before it.
    stranger.detach().unwrap();
    let mut stranger = load_stranger();
    stranger.set_interfaces(&[nodes.index].into(), now).unwrap();
    assert_eq!(order(), [id(&stranger_pins), id(&nodes.place.pins)]);
    assert_eq!(answer.audit(now).unwrap(), 1);
    assert_eq!(order(), [id(&nodes.place.pins), id(&stranger_pins)]);
    assert_eq!(states(&answer), [(nodes.index, AnswerState::Answers)]);
    stranger.detach().unwrap();
    fs::remove_dir_all(&stranger_pins).unwrap();

    let is_asked = |nonce| {
        nodes.send(&Frame::question(V6, nonce).bytes());
        let found = nodes.receive();
        matches!(probe::parse(&found[62..]), Some(Datagram::Answer { nonce: of, .. }) if of == nonce)
    };
    // Removed, by link and by pin; and the addresses.
    run("bpftool", &["link", "detach", "pinned", pin(&nodes.place.pins).to_str().unwrap()]);
    assert_eq!(order(), []);
    assert_eq!((answer.audit(now).unwrap(), order()), (1, vec![id(&nodes.place.pins)]));
    assert!(is_asked(1));
    fs::remove_file(pin(&nodes.place.pins)).unwrap();
    while !order().is_empty() {
        thread::yield_now();
    }
    assert_eq!((answer.audit(now).unwrap(), order()), (1, vec![id(&nodes.place.pins)]));
    assert!(is_asked(2));
    let map = pinned(&nodes.place, "cm_probe_addresses");
    let map = aya::maps::Map::HashMap(aya::maps::MapData::from_pin(map).unwrap());
    let mut map: aya::maps::HashMap<_, [u8; 16], u32> = map.try_into().unwrap();
    map.remove(&mesh_layout::address_bytes(V6.node)).unwrap();
    map.insert(mesh_layout::address_bytes(V6.pod), 7, 0).unwrap();
    assert_eq!(answer.audit(now).unwrap(), 2);
    assert!(is_asked(3));
    assert_eq!(answer.audit(now).unwrap(), 0);

    // An interface without Ethernet, one that is none, and one that comes later.
    run("ip", &["link", "add", "node1", "type", "veth", "peer", "name", "other1"]);
    let later = index_of("node1");
    let all: BTreeSet<u32> = [1, nodes.index, 4_000_000].into();
    answer.set_interfaces(&all, now).unwrap();
    let found = states(&answer);
    assert_eq!(found[..2], [(1, AnswerState::NotEthernet), (nodes.index, AnswerState::Answers)]);
    assert!(matches!(&found[2], (4_000_000, AnswerState::Failed(_))), "{found:?}");
    let why = "no Ethernet: the kernel cannot answer probes there, the agent does";
    assert_eq!(found[0].1.to_string(), why);
    answer.audit(now).unwrap();
    assert_eq!(states(&answer), found);
    answer.set_interfaces(&[later].into(), now).unwrap();
    assert_eq!((states(&answer), order()), (vec![(later, AnswerState::Answers)], vec![]));
    run("ip", &["link", "del", "node1"]);
    answer.audit(now).unwrap();
    assert!(matches!(&states(&answer)[0].1, AnswerState::Failed(_)));
}

/// A bridge carries the node's address, and not its ports: it answers, over whichever port is asked.
#[test]
fn a_bridge_answers_over_its_ports() {
    let nodes = Nodes::new("bridge");
    run("ip", &["link", "add", "br0", "type", "bridge"]);
    let mac = NODE_MAC.map(|byte| format!("{byte:02x}")).join(":");
    run("ip", &["link", "set", "br0", "address", &mac]);
    run("ip", &["address", "flush", "dev", "node0"]);
    run("ip", &["link", "set", "node0", "address", "02:00:00:00:00:03", "master", "br0"]);
    for (ip, length) in [(V4, 24), (V6, 64)] {
        run("ip", &["address", "add", &format!("{}/{length}", ip.node), "dev", "br0", "nodad"]);
    }
    run("ip", &["link", "set", "br0", "up"]);
    let mut answer = nodes.load();
    answer.set_addresses(&[V4.node, V6.node].into(), PORT).unwrap();
    answer.set_interfaces(&[index_of("br0")].into(), Instant::now()).unwrap();
    for family in [V4, V6] {
        let question = Frame::question(family, 5);
        nodes.send(&question.bytes());
        let found = nodes.receive();
        let rate: [u8; 4] = found[found.len() - 4..].try_into().unwrap();
        assert_eq!(found, question.answer(answer_to(5, u32::from_be_bytes(rate))));
    }
    assert_eq!(answer.answered(), 2);
}
