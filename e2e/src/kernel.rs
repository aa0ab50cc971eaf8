//! What is in a node's kernel, read from its pinned maps: neither the agent nor its tables are asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use aya::maps::{MapData, MapInfo};
use mesh_layout::{Backend, FrontendKey, ServiceRef};
use mesh_sys::{MappedArray, lookup_all};

/// Where a connection may end up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Destination {
    /// Where the pod listens.
    pub address: SocketAddr,
    /// The number of its cluster.
    pub cluster: u16,
}

/// Frontends, each an address, a port and an IP protocol number, with their backends.
pub type Services = BTreeMap<(SocketAddr, u8), BTreeSet<Destination>>;

/// The services below a pin root.
pub fn services(pins: &Path) -> Services {
    let maps = maps_folder(pins);
    let open = |name: &str| MapData::from_pin(maps.join(name)).expect("a pinned map");
    let array = |name: &str, size: usize| {
        let map = open(name);
        let entries = MapInfo::from_pin(maps.join(name)).expect("a pinned map").max_entries();
        MappedArray::new(map.fd(), entries, size).expect("an array that can be mapped")
    };
    let headers = array("cm_headers", 8);
    let (slots, backends) = (array("cm_slots", 8), array("cm_backends", size_of::<Backend>()));
    let entries = u32::try_from(backends.len()).expect("a map's size");
    let word = |array: &MappedArray, index, at| {
        array.u64(index, at).expect("an entry of the array").load(Ordering::SeqCst)
    };
    let found: Vec<(FrontendKey, ServiceRef)> =
        lookup_all(open("cm_services").fd()).expect("a map that can be read");
    let destinations = |service: ServiceRef| {
        // base and count, as `mesh_layout::Header` has them.
        let [a, b, c, d, rest @ ..] = word(&headers, service.index(), 0).to_ne_bytes();
        let (base, count) = (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes(rest));
        let ids = (base..base + count).map(|slot| {
            let half = usize::from(slot % 2 == 1);
            slots.u32(slot / 2, half).expect("a slot").load(Ordering::SeqCst)
        });
        let ids: Vec<u32> = ids.collect();
        let distinct = ids.iter().collect::<BTreeSet<_>>().len();
        assert_eq!(distinct, ids.len(), "a backend has two slots of one service");
        ids.into_iter()
            .map(|id| {
                let words = [0, 1, 2, 3].map(|at| word(&backends, id % entries, at));
                let backend = Backend::from_words(words);
                assert_eq!(backend.id(), id, "a slot names a backend that is not there");
                Destination {
                    address: address(backend.address(), backend.port()),
                    cluster: backend.cluster(),
                }
            })
            .collect()
    };
    found
        .into_iter()
        .map(|(key, service)| {
            assert_eq!(service.tag(), key.tag(), "a frontend has another's value");
            ((address(key.address(), key.port()), key.protocol()), destinations(service))
        })
        .collect()
}

/// How many backends have an entry.
pub fn backend_entries(pins: &Path) -> usize {
    let path = maps_folder(pins).join("cm_backends");
    let map = MapData::from_pin(&path).expect("a pinned map");
    let entries = MapInfo::from_pin(&path).expect("a pinned map").max_entries();
    let backends = MappedArray::new(map.fd(), entries, size_of::<Backend>()).expect("an array");
    let used = |index: &u32| {
        let first = backends.u64(*index, 0).expect("an entry").load(Ordering::SeqCst);
        Backend::from_words([first, 0, 0, 0]).id() != 0
    };
    (0..entries).filter(used).count()
}

/// The folder with the maps: the only one there but for the links.
fn maps_folder(pins: &Path) -> PathBuf {
    let entries = fs::read_dir(pins).unwrap_or_else(|error| panic!("{}: {error}", pins.display()));
    let folders = entries.flatten().map(|entry| entry.path());
    let mut folders = folders.filter(|path| path.is_dir() && !path.ends_with("links"));
    let folder = folders.next().expect("a folder with maps");
    assert_eq!(folders.next(), None, "one layout's maps");
    folder
}

fn address(address: [u8; 16], port: [u8; 2]) -> SocketAddr {
    let ip: IpAddr = Ipv6Addr::from(address).to_canonical();
    SocketAddr::new(ip, u16::from_be_bytes(port))
}
