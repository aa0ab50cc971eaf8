//! Another program writes the maps.

use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{Array, HashMap, Map, MapData};
use mesh_dataplane::{HookAudit, Repairs};
use mesh_dump::Dump;
use mesh_layout::{
    FrontendKey, Header, LOCAL_PLAIN_PASSES, LOCAL_UNSYNCED, ServiceEntry, ServiceRef,
};
use mesh_sys::{Link, Program};

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

    let open = |name: &str| MapData::from_pin(pinned(&place, name)).unwrap();
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
    let (_programs, mut tables) = place.load();
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
    let before = tables.writes();
    tables.set_cut(cluster, true);
    assert_eq!(tables.writes() - before, 1);
    assert_eq!(found(), BTreeMap::from([(near.port, 300)]));
    assert_eq!(Dump::open(&place.pins).unwrap().cut().into_iter().collect::<Vec<_>>(), [2]);
    tables.set_cut(cluster, false);
    assert_eq!(tables.writes() - before, 2);
    assert!(found().len() > 1);
}

/// Another process detaches programs, replaces one, and removes pins: the next audit restores all of it and reports it,
/// and the one after finds nothing.
#[test]
fn what_is_detached_or_exchanged_is_put_back() {
    let place = Place::new("detached");
    let (mut programs, mut tables) = place.load();
    let frontend = vip(1, Protocol::Tcp);
    let server = tcp_server("127.0.0.1");
    let changes = [
        Change::SetFrontend(frontend, Settings::default()),
        Change::AddBackend(frontend, backend(server, Protocol::Tcp, 1), Group::FIRST),
    ];
    apply(&mut tables, &changes);
    let asks = || ask_tcp(socket(frontend)).map(|(port, _)| port);
    assert_eq!(asks().unwrap(), server.port());
    assert_eq!(programs.audit().unwrap(), HookAudit::default());

    let links = place.pins.join("links");
    let pin = |name: &str| links.join(name).display().to_string();
    run("bpftool", &["link", "detach", "pinned", &pin("cm_connect4")]);
    assert!(asks().is_err());
    let found = programs.audit().unwrap();
    assert_eq!((found.attached, found.pinned.len()), (vec!["cm_connect4"], 0));
    assert_eq!(asks().unwrap(), server.port());

    // All at once; a program exchanged for one that knows no backend; and what is pinned.
    let other = PathBuf::from(format!("{}-other", place.pins.display()));
    let cgroup = place.cgroup.join("other");
    fs::create_dir(&cgroup).unwrap();
    let load_other = |cgroup: &Path| {
        let (mut programs, _) = Programs::load(PinRoot::open(&other).unwrap(), SIZES).unwrap();
        programs.attach(cgroup).unwrap();
        programs
    };
    let strangers = load_other(&cgroup);
    let link = |pins: &Path| Link::open(&pins.join("links/cm_connect4")).unwrap();
    let stranger = Program::by_id(link(&other).info().unwrap().program).unwrap();
    link(&place.pins).update(&stranger).unwrap();
    assert!(asks().is_err());
    for hook in ["cm_getpeername4", "cm_sendmsg6"] {
        run("bpftool", &["link", "detach", "pinned", &pin(hook)]);
    }
    fs::remove_file(links.join("cm_recvmsg4")).unwrap();
    let map = pinned(&place, "cm_backends");
    fs::remove_file(&map).unwrap();
    let found = programs.audit().unwrap();
    let expected = ["cm_getpeername4", "cm_recvmsg4", "cm_connect4", "cm_sendmsg6"];
    assert_eq!((&found.attached[..], &found.pinned[..]), (&expected[..], &["cm_backends"][..]));
    assert_eq!((found.repairs(), found.others), (5, vec![]));
    assert_eq!(programs.audit().unwrap(), HookAudit::default());
    assert_eq!(ask_tcp(socket(frontend)).unwrap(), (server.port(), socket(frontend)));
    assert!(map.exists());
    drop(strangers);
    fs::remove_dir_all(&other).unwrap();

    // Another owner's programs at the same hooks: after ours, and before.
    let strangers = load_other(&place.cgroup);
    let found = programs.audit().unwrap();
    let firsts = |found: &HookAudit| found.others.iter().filter(|other| other.is_first).count();
    assert_eq!((found.others.len(), firsts(&found), found.repairs()), (8, 0, 0));
    let named = |found: &HookAudit| {
        let other = found.others.iter().find(|other| other.beside == "cm_connect6");
        other.map(|other| (other.name.clone(), other.is_first))
    };
    assert_eq!(named(&found), Some(("cm_connect6".into(), false)));
    run("bpftool", &["link", "detach", "pinned", &pin("cm_connect6")]);
    programs.audit().unwrap();
    let found = programs.audit().unwrap();
    assert_eq!((named(&found), firsts(&found)), (Some(("cm_connect6".into(), true)), 1));
    drop(strangers);
    fs::remove_dir_all(&other).unwrap();
    fs::remove_dir(cgroup).unwrap();
}

/// The states of clusters are written by another thread than the one that writes the tables, and by several: each word
/// is its cluster's, the node's own word is the tables' writer's alone, and every write is counted.
#[test]
fn clusters_are_cut_beside_the_writer_of_the_tables() {
    let place = Place::new("states");
    let (_programs, mut tables) = place.load();
    let id = |id: u32| ClusterId::new(id, ClusterLimit::Max511).unwrap();
    let states = tables.peer_states();
    let before = tables.writes();
    assert!(states.set_cut(id(2), true) && !states.set_cut(id(2), true));
    assert_eq!(tables.writes() - before, 1);
    tables.set_local_state(LOCAL_UNSYNCED);
    let rounds = 20_000;
    thread::scope(|scope| {
        for cluster in [3, 4] {
            let states = states.clone();
            scope.spawn(move || {
                (0..=rounds).for_each(|n| {
                    states.set_cut(id(cluster), n % 2 == 0);
                })
            });
        }
        for n in 0..=rounds {
            tables.set_local_state(if n % 2 == 0 { LOCAL_UNSYNCED } else { LOCAL_PLAIN_PASSES });
        }
    });
    assert_eq!(states.cut().collect::<Vec<_>>(), [id(2), id(3), id(4)]);
    assert_eq!(tables.local_state(), LOCAL_UNSYNCED);
    // What is found is put right, and counted.
    assert_eq!(states.repair(&[id(2), id(511)].into()), 3);
    assert_eq!(states.repair(&[id(2), id(511)].into()), 0);
    drop(tables);
    let (_programs, tables) = place.load();
    assert_eq!(tables.cut().collect::<Vec<_>>(), [id(2), id(511)], "it outlives the agent");
    assert_eq!(tables.local_state(), LOCAL_UNSYNCED);
    assert!(tables.peer_states().is_cut(id(511)) && !tables.peer_states().is_cut(id(3)));
}
