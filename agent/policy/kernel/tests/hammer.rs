//! Places are looked up while they are written: none is another address's.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test"
)]

use std::{
    env,
    net::{IpAddr, Ipv6Addr},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use mesh_layout::{
    address_bytes,
    policy::{
        Place,
        hammer::{ADDRESSES, FOUND, LOOK_UPS_A_RUN, LOOKED_UP, WORDS, WRONG},
    },
};
use mesh_policy_kernel::Places;
use mesh_sys::MmapArray;

/// Look-ups, unless `HAMMER` says how many: `make soak` does 10^9.
const LOOK_UPS: u64 = 20_000_000;
/// Elements of `cm_places`: so many that each rests for a second, however fast they are written.
const PLACES: u32 = 1 << 19;
/// How long an index is left alone between two addresses.
const REST: Duration = Duration::from_secs(1);

fn load() -> Option<Ebpf> {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    loader.map_max_entries("cm_places", PLACES).map_max_entries("cm_ipcache", 2 * ADDRESSES);
    match loader.load(mesh_objects::HAMMER) {
        Ok(ebpf) => Some(ebpf),
        Err(error) => {
            let denied = mesh_policy_kernel::is_denied(&error);
            assert!(denied, "{error}");
            println!("skipped: the kernel's programs, which only root may load");
            None
        }
    }
}

fn memory(ebpf: &mut Ebpf, map: &str, entries: u32, value: usize) -> MmapArray {
    let Some(Map::Array(map)) = ebpf.take_map(map) else { panic!("{map} is missing") };
    MmapArray::new(map.fd(), entries, value).unwrap()
}

/// What a run counted.
#[derive(Debug)]
struct Counts {
    looked_up: u64,
    found: u64,
    wrong: u64,
    /// Changes meanwhile.
    written: u64,
}

/// Gives addresses other identities, one after another: a new place, then the address leads there, then the former one
/// is freed.
fn write(
    places: &Places,
    mut ipcache: HashMap<MapData, [u8; 16], u32>,
    written: &AtomicU64,
    done: &AtomicBool,
) {
    let mut freed: Vec<Option<Instant>> = vec![None; usize::try_from(PLACES).unwrap()];
    let mut present: Vec<Option<u32>> = vec![None; usize::try_from(ADDRESSES).unwrap()];
    let mut used: Vec<bool> = vec![false; usize::try_from(PLACES).unwrap()];
    let (mut index, mut generation, mut number) = (1u32, 0u32, 0u32);
    while !done.load(Ordering::Relaxed) {
        // All addresses in an order that jumps; every fifth is removed, and comes back in a later round.
        number = (number + 1_021) % ADDRESSES;
        if number == 0 {
            generation = (generation + 1) % 0x7fff;
        }
        let at = usize::try_from(number).unwrap();
        let address =
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.try_into().unwrap()));
        let key = address_bytes(address);
        let former = present[at].take();
        if (number + generation) % 5 == 0 {
            if former.is_some() {
                ipcache.remove(&key).unwrap();
            }
        } else {
            while used[usize::try_from(index).unwrap()] {
                index = index % (PLACES - 1) + 1;
            }
            if let Some(freed) = freed[usize::try_from(index).unwrap()] {
                thread::sleep(REST.saturating_sub(freed.elapsed()));
            }
            let identity = generation << 16 | number;
            let (row, ports) = (generation, generation);
            places.set(index, &Place { address: key, identity, row, ports, owner: number });
            ipcache.insert(key, index, 0).unwrap();
            used[usize::try_from(index).unwrap()] = true;
            present[at] = Some(index);
            index = index % (PLACES - 1) + 1;
        }
        if let Some(former) = former {
            places.clear(former);
            used[usize::try_from(former).unwrap()] = false;
            freed[usize::try_from(former).unwrap()] = Some(Instant::now());
        }
        written.fetch_add(1, Ordering::Relaxed);
    }
}

/// Writes places as nobody should: over what is there.
fn write_over(
    places: &Places,
    mut ipcache: HashMap<MapData, [u8; 16], u32>,
    written: &AtomicU64,
    done: &AtomicBool,
) {
    let (mut generation, mut number) = (0u32, 0u32);
    while !done.load(Ordering::Relaxed) {
        number = (number + 1_021) % ADDRESSES;
        generation = (generation + u32::from(number == 0)) % 0x7fff;
        let address = key(number);
        let identity = generation << 16 | number;
        let (row, ports) = (generation, generation);
        places.set(number + 1, &Place { address, identity, row, ports, owner: number });
        ipcache.insert(address, number + 1, 0).unwrap();
        written.fetch_add(1, Ordering::Relaxed);
    }
}

fn key(number: u32) -> [u8; 16] {
    let last = u16::try_from(number).unwrap();
    address_bytes(IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last)))
}

type Writer = fn(&Places, HashMap<MapData, [u8; 16], u32>, &AtomicU64, &AtomicBool);

/// Looks up at least as often, until there is something wrong; `None` where it may not be tried.
fn hammer(wanted: u64, write: Writer) -> Option<Counts> {
    let mut ebpf = load()?;
    let program: &mut SchedClassifier =
        ebpf.program_mut("cm_hammer_places").unwrap().try_into().unwrap();
    program.load().unwrap();
    let places = Places::of(memory(&mut ebpf, "cm_places", PLACES, size_of::<Place>()));
    let counts = memory(&mut ebpf, "cm_hammer", u32::try_from(WORDS).unwrap(), 8);
    let ipcache = HashMap::try_from(ebpf.take_map("cm_ipcache").unwrap()).unwrap();
    let program: &mut SchedClassifier =
        ebpf.program_mut("cm_hammer_places").unwrap().try_into().unwrap();
    let count = |word| counts.u64(word, 0).unwrap().load(Ordering::Relaxed);

    let (done, written) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| write(&places, ipcache, &written, &done));
        // An Ethernet header is the least that the kernel takes.
        let packet = [0u8; 14];
        while count(LOOKED_UP) < wanted && count(WRONG) == 0 {
            let left = (wanted - count(LOOKED_UP)).div_ceil(LOOK_UPS_A_RUN.into());
            let mut options = TestRunOptions::new();
            options.data_in = Some(&packet);
            options.repeat = u32::try_from(left.min(100_000)).unwrap();
            program.test_run(options).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    let counts = Counts {
        looked_up: count(LOOKED_UP),
        found: count(FOUND),
        wrong: count(WRONG),
        written: written.load(Ordering::Relaxed),
    };
    println!("{counts:?}");
    Some(counts)
}

#[test]
fn no_look_up_finds_the_place_of_another_address() {
    let wanted = env::var("HAMMER").map_or(LOOK_UPS, |count| count.parse().unwrap());
    let Some(Counts { looked_up, found, wrong, written }) = hammer(wanted, write) else { return };
    assert_eq!(wrong, 0);
    assert!(looked_up >= wanted && found * 2 > looked_up, "{found} of {looked_up}");
    assert!(written > 1_000, "{written}");
}

/// What makes the test above worth something.
#[test]
fn a_writer_that_writes_over_what_is_there_is_noticed() {
    let Some(Counts { wrong, .. }) = hammer(1_000_000_000, write_over) else { return };
    assert!(wrong > 0);
}
