//! Somebody else writes the maps.

use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{Array, HashMap, Map, MapData};
use mesh_dataplane::Repairs;
use mesh_dump::Dump;
use mesh_layout::{FrontendKey, Header, ServiceEntry, ServiceRef};

use crate::*;

static WRITES: AtomicU64 = AtomicU64::new(0);

fn count() {
    WRITES.fetch_add(1, Ordering::Relaxed);
}

/// Through the pins and nothing of ours: what was changed there is put right and counted; what was not costs no write.
#[test]
fn what_a_stranger_wrote_is_put_right() {
    let place = Place::new("audit");
    let (mut programs, mut maps) =
        Programs::load(PinRoot::open(&place.pins).unwrap(), SIZES).unwrap();
    maps.after_each_write(count);
    let mut tables = Tables::restore(maps, Instant::now()).unwrap();
    programs.attach(&place.cgroup).unwrap();
    let (one, two) = (vip(1, Protocol::Tcp), vip(2, Protocol::Tcp));
    let servers = [1, 2].map(|cluster| backend(tcp_server("127.0.0.1"), Protocol::Tcp, cluster));
    for (frontend, server) in [(one, servers[0]), (one, servers[1]), (two, servers[1])] {
        apply(
            &mut tables,
            &[
                Change::SetFrontend(frontend, Settings::default()),
                Change::AddBackend(frontend, server, Group::FIRST),
            ],
        );
    }
    let whole = Dump::open(&place.pins).unwrap().services().unwrap();
    let before = WRITES.load(Ordering::Relaxed);
    assert!(before > 0);
    assert_eq!(tables.audit().unwrap(), Repairs::default());
    assert_eq!(
        WRITES.load(Ordering::Relaxed),
        before,
        "an audit that finds nothing writes nothing"
    );

    let folder = fs::read_dir(&place.pins).unwrap().flatten().map(|entry| entry.path());
    let folder = folder.into_iter().find(|path| path.join("cm_services").exists()).unwrap();
    let open = |name: &str| MapData::from_pin(folder.join(name)).unwrap();
    let services = Map::HashMap(open("cm_services"));
    let mut services: HashMap<_, FrontendKey, ServiceRef> = services.try_into().unwrap();
    let mut headers: Array<_, ServiceEntry> = Map::Array(open("cm_headers")).try_into().unwrap();
    let gone = services.keys().map(Result::unwrap).find(|key| key.address()[15] == 1).unwrap();
    let two_at = services.iter().map(Result::unwrap).find(|(key, _)| *key != gone).unwrap().1;
    services.remove(&gone).unwrap();
    headers
        .set(
            two_at.index(),
            ServiceEntry::new(Header::new(900, 3), mesh_layout::Settings::default()),
            0,
        )
        .unwrap();
    assert!(ask_tcp(socket(one)).is_err());

    let repairs = tables.audit().unwrap();
    assert_eq!(repairs, Repairs { frontends: 1, headers: 1, ..Repairs::default() });
    assert_eq!(Dump::open(&place.pins).unwrap().services().unwrap(), whole);
    for frontend in [one, two] {
        let (port, _) = ask_tcp(socket(frontend)).unwrap();
        assert!(servers.iter().any(|server| server.port == port));
    }
    assert_eq!(tables.audit().unwrap(), Repairs::default());
}

/// However many services and backends a cluster has: one write, and no new connection goes there.
#[test]
fn one_write_cuts_a_cluster() {
    let place = Place::new("cut");
    let (mut programs, mut maps) =
        Programs::load(PinRoot::open(&place.pins).unwrap(), SIZES).unwrap();
    maps.after_each_write(count);
    let mut tables = Tables::restore(maps, Instant::now()).unwrap();
    programs.attach(&place.cgroup).unwrap();
    let services = [1, 2, 3].map(|n| vip(n, Protocol::Udp));
    let near = backend(udp_server("127.0.0.1"), Protocol::Udp, 1);
    let far: Vec<_> = (0..8).map(|_| backend(udp_server("127.0.0.1"), Protocol::Udp, 2)).collect();
    let second = Group::new(1).unwrap();
    for frontend in services {
        apply(&mut tables, &[Change::SetFrontend(frontend, Settings::default())]);
        apply(&mut tables, &[Change::AddBackend(frontend, near, Group::FIRST)]);
        // Of the last service they are in another group, which has almost all weight.
        let group = if frontend == services[2] { second } else { Group::FIRST };
        for far in &far {
            apply(&mut tables, &[Change::AddBackend(frontend, *far, group)]);
        }
        let weights = mesh_model::lb::Weights([1, 99, 0, 0, 0, 0, 0, 0]);
        apply(&mut tables, &[Change::SetWeights(frontend, weights)]);
    }
    let found = || -> BTreeMap<u16, usize> {
        let mut found = BTreeMap::new();
        for frontend in services.iter().cycle().take(300) {
            *found.entry(ask_udp(socket(*frontend)).unwrap().0).or_default() += 1;
        }
        found
    };
    assert!(found().len() > 1);
    let cluster = ClusterId::new(2, ClusterLimit::Max255).unwrap();
    let before = WRITES.load(Ordering::Relaxed);
    tables.set_cut(cluster, true);
    assert_eq!(WRITES.load(Ordering::Relaxed) - before, 1);
    assert_eq!(found(), BTreeMap::from([(near.port, 300)]));
    assert_eq!(Dump::open(&place.pins).unwrap().cut().into_iter().collect::<Vec<_>>(), [2]);
    tables.set_cut(cluster, false);
    assert_eq!(WRITES.load(Ordering::Relaxed) - before, 2);
    assert!(found().len() > 1);
}
