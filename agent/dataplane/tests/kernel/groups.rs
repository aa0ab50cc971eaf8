//! Backends of different chances: groups, their weights, and what happens when one has no backend.

use mesh_dataplane::KernelMaps;
use mesh_layout::{GROUPS_OF_A_SERVICE, Header};

use crate::{place::Raw as _, *};

/// The set of the service that is under test; nothing else uses sets here.
const SET: u32 = 3;
/// Where its slots begin: far from those that the tables use.
const SLOTS: u32 = 512;

/// A service whose servers are in groups. The test writes the groups itself, so that it can write any.
struct Grouped {
    frontend: Frontend,
    /// By group; a group's servers are of the cluster of its number plus one.
    servers: Vec<Vec<SocketAddr>>,
    raw: KernelMaps,
}

impl Grouped {
    fn new(
        place: &Place,
        tables: &mut Tables<KernelMaps>,
        groups: &[usize],
        cumulative: &[u32],
    ) -> Self {
        let frontend = vip(1, Protocol::Udp);
        apply(tables, &[Change::SetFrontend(frontend, Settings::default())]);
        let mut servers = Vec::new();
        let mut raw = place.raw();
        let index = raw.index_of(frontend);
        let mut slot = SLOTS;
        for (count, group) in groups.iter().zip(0..) {
            let of_group: Vec<_> = (0..*count).map(|_| udp_server("127.0.0.1")).collect();
            for server in &of_group {
                let cluster = u32::try_from(group + 1).unwrap();
                let change = Change::AddBackend(
                    frontend,
                    backend(*server, Protocol::Udp, cluster),
                    Group::FIRST,
                );
                apply(tables, &[change]);
                let header = raw.header(index);
                raw.set_slot(slot, raw.slot(header.base() + header.count() - 1));
                slot += 1;
            }
            servers.push(of_group);
        }
        let mut base = SLOTS;
        for (count, group) in groups.iter().zip(0..) {
            let count = u32::try_from(*count).unwrap();
            raw.set_group_header(SET, group, Header::new(base, count));
            base += count;
        }
        let mut this = Self { frontend, servers, raw };
        this.weigh(cumulative);
        this.raw.set_header(index, Header::grouped(SET));
        this
    }

    /// Gives the groups weights, each with all before it.
    fn weigh(&mut self, cumulative: &[u32]) {
        let last = cumulative.last().copied().unwrap_or(0);
        for group in 0..GROUPS_OF_A_SERVICE {
            let weight = cumulative.get(group).copied().unwrap_or(last);
            self.raw.set_group_cumulative(SET, group, weight);
        }
    }

    fn cut(&mut self, group: u32, cut: bool) {
        let cluster = ClusterId::new(group + 1, ClusterLimit::Max255).unwrap();
        self.raw.peer_states().set_cut(cluster, cut);
    }

    /// How many of `n` connections each group got, and each server of it.
    fn ask(&self, n: u32) -> Vec<(u32, Vec<u32>)> {
        let mut answers = BTreeMap::<u16, u32>::new();
        for _ in 0..n {
            *answers.entry(ask_udp(socket(self.frontend)).unwrap().0).or_default() += 1;
        }
        let of = |server: &SocketAddr| answers.get(&server.port()).copied().unwrap_or(0);
        let counts = |servers: &Vec<SocketAddr>| servers.iter().map(of).collect::<Vec<u32>>();
        self.servers.iter().map(counts).map(|counts| (counts.iter().sum(), counts)).collect()
    }
}

/// Whether a count is within five standard errors of `n` connections' share.
fn is_share(count: u32, n: u32, share: f64) -> bool {
    let error = (f64::from(n) * share * (1.0 - share)).sqrt();
    (f64::from(count) - f64::from(n) * share).abs() <= 5.0 * error
}

#[test]
fn groups_get_connections_by_their_weights() {
    let place = Place::new("weights");
    let (_programs, mut tables) = place.load();
    // 7 : 2 : 0 : 1, with one, four, two and three servers.
    let grouped = Grouped::new(&place, &mut tables, &[1, 4, 2, 3], &[7, 9, 9, 10]);
    let answers = grouped.ask(6_000);
    for ((group, servers), share) in answers.iter().zip([0.7, 0.2, 0.0, 0.1]) {
        assert!(is_share(*group, 6_000, share), "{answers:?}");
        let each = share / servers.len() as f64;
        assert!(servers.iter().all(|server| is_share(*server, 6_000, each)), "{answers:?}");
    }
}

#[test]
fn a_group_without_backends_leaves_its_share_to_the_others() {
    let place = Place::new("groups-empty");
    let (programs, mut tables) = place.load();
    let mut grouped = Grouped::new(&place, &mut tables, &[2, 2, 2], &[5, 5, 10]);
    let got = |grouped: &Grouped| grouped.ask(100).iter().map(|(n, _)| *n).collect::<Vec<u32>>();

    // The first group's cluster is cut: the one with a weight gets all, the one without gets none.
    grouped.cut(0, true);
    assert_eq!(got(&grouped), [0, 0, 100]);
    // All that have a weight are cut: the one without is better than nothing.
    grouped.cut(2, true);
    assert_eq!(got(&grouped), [0, 100, 0]);
    assert_eq!(programs.counters().unwrap()[Counter::TookCut as usize], 0);
    // All are cut: any is.
    grouped.cut(1, true);
    assert_eq!(got(&grouped).iter().sum::<u32>(), 100);
    assert!(programs.counters().unwrap()[Counter::TookCut as usize] >= 100);
    (0..3).for_each(|group| grouped.cut(group, false));

    // A group whose slots are gone.
    grouped.raw.set_group_header(SET, 0, Header::new(SLOTS, 0));
    assert_eq!(got(&grouped), [0, 0, 100]);
    // Slots that name no backend are passed over.
    let first_of_third = grouped.raw.slot(SLOTS + 4);
    grouped.raw.set_slot(SLOTS + 4, 77_777);
    let answers = grouped.ask(100);
    assert_eq!(answers[2].1, [0, 100]);
    grouped.raw.set_slot(SLOTS + 4, first_of_third);
    // No weights at all: whatever there is.
    grouped.weigh(&[0]);
    assert_eq!(got(&grouped), [0, 100, 0]);
    // No backend at all.
    (0..3).for_each(|group| grouped.raw.set_group_header(SET, group, Header::new(SLOTS, 0)));
    let refused = ask_udp(socket(grouped.frontend)).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_socket_and_a_client_leave_a_group_without_weight() {
    let place = Place::new("groups-leave");
    let (_programs, mut tables) = place.load();
    let mut grouped = Grouped::new(&place, &mut tables, &[3, 3], &[1, 1]);
    let index = grouped.raw.index_of(grouped.frontend);
    let group_of = |grouped: &Grouped, port: u16| {
        grouped.servers.iter().position(|of| of.iter().any(|s| s.port() == port)).unwrap()
    };
    let client = clients::Client::open(
        clients::Way::UdpSendTo,
        clients::Family::V4,
        clients::Bound::Nothing,
    );
    for seconds in [0, 3_600] {
        grouped.weigh(&[1, 1]);
        for (group, base) in [(0, SLOTS), (1, SLOTS + 3)] {
            grouped.raw.set_group_header(SET, group, Header::new(base, 3));
        }
        grouped.raw.set_settings(index, mesh_layout::Settings::new(seconds, false, false));
        let ask = || client.ask(socket(grouped.frontend)).unwrap().0;
        let first = ask();
        assert_eq!(group_of(&grouped, first), 0);
        assert!((0..20).all(|_| ask() == first));
        grouped.weigh(&[0, 1]);
        let ask = || client.ask(socket(grouped.frontend)).unwrap().0;
        let second = ask();
        assert_eq!(group_of(&grouped, second), 1);
        assert!((0..20).all(|_| ask() == second));
        // Its slots move, and where they were the same ids are left, for another service as it were.
        for slot in SLOTS..SLOTS + 6 {
            grouped.raw.set_slot(slot + 64, grouped.raw.slot(slot));
        }
        for (group, base) in [(0, SLOTS + 64), (1, SLOTS + 67)] {
            grouped.raw.set_group_header(SET, group, Header::new(base, 3));
        }
        let ask = || client.ask(socket(grouped.frontend)).unwrap().0;
        assert!((0..20).all(|_| ask() == second));
        if seconds > 0 {
            assert!((0..20).all(|_| ask_udp(socket(grouped.frontend)).unwrap().0 == second));
        }
    }
}
