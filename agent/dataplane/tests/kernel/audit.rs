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
