//! A copy's tables, filled with what a cluster's nodes have in theirs.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use ipnet::IpNet;
use mesh_layout::policy::{ROW_NONE, Range};
use mesh_policy::{Class, Direction, End, Known, PodName, Set, View};

use crate::{
    copy::{Asked, Copy, Sizes},
    error::KernelError,
    stand_ins::StandIns,
    writer::{Meant, Writer},
};

/// A copy with the tables of a cluster's nodes.
#[derive(Debug)]
pub(crate) struct Filled {
    pub(crate) programs: Asked,
    writer: Writer,
    /// Positions in the compiler.
    pods: HashMap<PodName, usize>,
    /// By node: its addresses, and what they are to its pods.
    hosts: BTreeMap<String, (Vec<IpAddr>, Class)>,
    addresses: Vec<IpAddr>,
    /// The node whose pods can be judged at the moment.
    node: Option<String>,
}

// === impl Filled ===

impl Filled {
    /// Fills a copy: the former one where it is large enough, which then has nothing of what it had.
    pub(crate) fn new(
        former: Option<Self>,
        view: &View<'_>,
        stand_ins: &StandIns,
    ) -> Result<Self, KernelError> {
        let needed = sizes(view);
        let fits = |former: &Self| former.programs.sizes().max(needed) == former.programs.sizes();
        let copy = match former.filter(fits) {
            Some(former) => former.emptied()?,
            None => Copy::load(Sizes::default().max(needed))?,
        };
        let Copy { programs, tables } = copy;
        let writer = Writer::new(tables, programs.sizes(), view.options());
        let mut filled = Self {
            programs,
            writer,
            pods: HashMap::new(),
            hosts: BTreeMap::new(),
            addresses: Vec::new(),
            node: None,
        };
        filled.fill(view, stand_ins)?;
        Ok(filled)
    }

    fn fill(&mut self, view: &View<'_>, stand_ins: &StandIns) -> Result<(), KernelError> {
        let now = Instant::now();
        let Self { writer, pods, hosts, addresses, .. } = self;
        let compiler = view.compiler();
        let mut owners: HashMap<&PodName, u32> = HashMap::new();
        for subject in view.subjects() {
            owners.insert(subject.name, writer.add_endpoint(subject.position, now)?);
            pods.insert(subject.name.clone(), subject.position);
            if let Some(node) = view.node_of(subject.name)
                && !hosts.contains_key(node)
                && let Some((class, addresses)) = view.host(node)
            {
                let end = End::Node(subject.name.cluster.clone(), node.to_owned(), None);
                let stand_ins = stand_ins.of(&end).into_iter().flatten();
                let addresses = addresses.iter().copied().chain(stand_ins).collect();
                hosts.insert(node.to_owned(), (addresses, class));
            }
        }
        let ranges: Vec<(IpNet, Class)> = view.pod_ranges().collect();
        for (address, class) in view.externals() {
            // One that is in a range of pods is unknown of that cluster.
            if !ranges.iter().any(|(range, _)| range.contains(&address)) {
                writer.set_base(address.into(), Some(class));
            }
        }
        for (range, class) in ranges {
            writer.set_base(range, Some(class));
        }
        writer.apply(compiler, compiler.everything(), now)?;
        // No rule about ranges means what has no address.
        for range in StandIns::RANGES {
            writer.tables.set_range(range, Range { cidrs: ROW_NONE, ..Range::default() })?;
        }
        let stand_ins = view.ends().flat_map(|(end, known)| {
            let addresses = stand_ins.of(&end).into_iter().flatten();
            addresses.map(move |address| (address, known.clone()))
        });
        for (number, (address, known)) in (1..).zip(view.addresses().chain(stand_ins)) {
            let Known { class, pod, ports } = known;
            let meant = Meant {
                class,
                // The model has no identities: places differ all the same.
                identity: number,
                ports: ports.to_vec(),
                owner: pod.and_then(|pod| owners.get(pod)).copied(),
            };
            writer.set_place(address, Some(&meant), now)?;
            addresses.push(address);
        }
        Ok(())
    }

    /// The same copy, with nothing in its tables. Nothing is judged meanwhile, so no number has to rest.
    fn emptied(self) -> Result<Copy, KernelError> {
        let Self { programs, mut writer, addresses, .. } = self;
        let now = Instant::now();
        addresses.into_iter().try_for_each(|address| writer.set_place(address, None, now))?;
        let mut tables = writer.into_tables();
        tables.clear()?;
        Ok(Copy { programs, tables })
    }

    /// The number of a pod, as seen from its node: what is judged next is on that.
    pub(crate) fn at(
        &mut self,
        view: &View<'_>,
        pod: &PodName,
    ) -> Result<Option<u32>, KernelError> {
        let position = self.pods.get(pod);
        let endpoint = position.and_then(|position| self.writer.endpoint(*position));
        let node = view.node_of(pod).unwrap_or_default();
        if self.node.as_deref() != Some(node) {
            match self.hosts.get(node) {
                Some((addresses, class)) => self.writer.set_host(addresses, class)?,
                None => self.writer.tables.set_host(&[], ROW_NONE)?,
            }
            self.node = Some(node.to_owned());
        }
        // What was allowed before is judged anew: each flow is asked for by itself.
        self.writer.move_epoch();
        Ok(endpoint)
    }

    /// The set of a pod's direction.
    pub(crate) fn set(&self, pod: &PodName, direction: Direction) -> Option<&Arc<Set>> {
        self.writer.set(*self.pods.get(pod)?, direction)
    }
}

/// How large tables must be for what a cluster sees.
fn sizes(view: &View<'_>) -> Sizes {
    let compiler = view.compiler();
    let room = |count: usize| {
        let count = u32::try_from(count).unwrap_or(u32::MAX / 2);
        (count + 2).checked_next_power_of_two().unwrap_or(u32::MAX)
    };
    let mut sets: HashSet<&Arc<Set>> = HashSet::new();
    let mut pods = 0;
    for subject in view.subjects() {
        pods += 1;
        for direction in [Direction::Egress, Direction::Ingress] {
            sets.extend(compiler.set(subject.position, direction));
        }
    }
    let ranges = compiler.prefixes().count() + view.pod_ranges().count();
    let ranges = ranges + view.externals().count() + StandIns::RANGES.len();
    let (ends, ports) =
        view.ends().fold((0, 0), |(ends, ports), (_, known)| (ends + 1, ports + known.ports.len()));
    Sizes {
        // Each has two stand-ins.
        places: room(view.addresses().count() + 2 * ends),
        // Those of ranges, and as many where they change.
        rows: room(compiler.rows().count() + 2 * ranges),
        ranges: room(ranges),
        sets: room(sets.len()),
        rules: room(sets.iter().map(|set| set.rules.len()).sum()),
        port_names: room(ports),
        endpoints: room(pods),
    }
}
