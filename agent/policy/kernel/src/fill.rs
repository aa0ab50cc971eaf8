//! What a cluster's nodes have in their tables, made of what the compiler says.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use mesh_layout::policy::{
    Base, FLAG_CIDRS_IN_MESH, FLAG_LOCALHOST, FLAG_OFF, Place, PolicyEndpoint, PortName,
    ROW_IN_MESH, ROW_NONE, ROW_WORLD_V4, ROW_WORLD_V6, RULES_OF_A_SET, Range, Rule, RulePorts,
    SELECTORS, STATE_FLAGS, SetHeader,
};
use mesh_model::{NamedPort, Protocol};
use mesh_policy::{
    AllowLocalhost, Class, Direction, End, Enforcement, Known, PodName, Set, SetPort, SetRule, View,
};
use mesh_policy_rules::{Action, IcmpFamily, PortMatch};

use crate::{
    copy::{Copy, Sizes},
    error::KernelError,
    rows::Rows,
    stand_ins::StandIns,
};

/// The content of a cluster's tables.
#[derive(Debug)]
pub(crate) struct Content {
    rows: Rows,
    in_mesh: Vec<u64>,
    world: [Vec<u64>; 2],
    places: Vec<(IpAddr, Place)>,
    ranges: Vec<(IpNet, Range)>,
    port_names: Vec<PortName>,
    /// By their number; 0 is that of pods without policies.
    sets: Vec<Arc<Set>>,
    rules: Vec<Rule>,
    headers: Vec<SetHeader>,
    endpoints: Vec<(PodName, PolicyEndpoint)>,
    /// By node: its addresses and their row.
    hosts: BTreeMap<String, (Vec<IpAddr>, u32)>,
    flags: u64,
}

/// What is in a copy's tables.
#[derive(Debug, Default)]
pub(crate) struct Filled {
    endpoints: HashMap<PodName, u32>,
    sets: Vec<Arc<Set>>,
    endpoint_sets: Vec<PolicyEndpoint>,
    hosts: BTreeMap<String, (Vec<IpAddr>, u32)>,
    places: Vec<IpAddr>,
    ranges: Vec<IpNet>,
    port_names: Vec<PortName>,
    /// The node whose pods can be judged at the moment.
    node: Option<String>,
}

/// The first index of places: 0 is none.
const FIRST_PLACE: u32 = 1;

/// Numbers for what is named: from 1 on, in the order of their first use.
#[derive(Debug)]
struct Numbers<T>(HashMap<T, u32>);

// === impl Content ===

impl Content {
    /// Makes it of what a cluster sees, and of the addresses that stand in for those that ends lack.
    pub(crate) fn of(view: &View<'_>, stand_ins: &StandIns) -> Result<Self, KernelError> {
        let compiler = view.compiler();
        let options = view.options();
        let mut rows = Rows::default();
        let mut names = Numbers::default();
        let mut content = Self {
            in_mesh: compiler.in_mesh().words().to_vec(),
            world: [false, true].map(|v6| {
                let class = Class::World { v6, kube_apiserver: false };
                compiler.row(&class).map(|row| row.words().to_vec()).unwrap_or_default()
            }),
            rows: Rows::default(),
            places: Vec::new(),
            ranges: Vec::new(),
            port_names: Vec::new(),
            sets: vec![Arc::new(Set::default())],
            rules: Vec::new(),
            headers: vec![SetHeader::default()],
            endpoints: Vec::new(),
            hosts: BTreeMap::new(),
            flags: 0,
        };
        if options.enforcement == Enforcement::Never {
            content.flags |= FLAG_OFF;
        }
        if options.allow_localhost == AllowLocalhost::Always {
            content.flags |= FLAG_LOCALHOST;
        }
        if content.in_mesh.iter().any(|word| *word != 0) {
            content.flags |= FLAG_CIDRS_IN_MESH;
        }
        let mut numbers: HashMap<Arc<Set>, u32> = HashMap::new();
        let mut owners: HashMap<&PodName, u32> = HashMap::new();
        for subject in view.subjects() {
            let mut set = |direction| {
                let Some(set) = compiler.set(subject.position, direction) else { return Ok(0) };
                if **set == Set::default() {
                    return Ok(0);
                }
                if let Some(number) = numbers.get(set) {
                    return Ok(*number);
                }
                let number = content.add_set(set, &mut names)?;
                numbers.insert(set.clone(), number);
                Ok(number)
            };
            let sets = PolicyEndpoint {
                egress: set(Direction::Egress)?,
                ingress: set(Direction::Ingress)?,
            };
            content.endpoints.push((subject.name.clone(), sets));
            owners.insert(subject.name, number_of(content.endpoints.len()));
            if let Some(node) = view.node_of(subject.name)
                && !content.hosts.contains_key(node)
                && let Some((class, addresses)) = view.host(node)
            {
                let row = rows.number(compiler.row(&class));
                let end = End::Node(subject.name.cluster.clone(), node.to_owned(), None);
                let stand_ins = stand_ins.of(&end).into_iter().flatten();
                let addresses = addresses.iter().copied().chain(stand_ins).collect();
                content.hosts.insert(node.to_owned(), (addresses, row));
            }
        }
        let mut classes: Numbers<Vec<NamedPort>> = Numbers::default();
        let stand_ins = view.ends().flat_map(|(end, known)| {
            let addresses = stand_ins.of(&end).into_iter().flatten();
            addresses.map(move |address| (address, known.clone()))
        });
        for (address, Known { class, pod, ports }) in view.addresses().chain(stand_ins) {
            let place = Place {
                address: mesh_layout::address_bytes(address),
                // The engine has no identities: places differ all the same.
                identity: number_of(content.places.len()) + 1,
                row: rows.number(compiler.row(&class)),
                ports: if ports.is_empty() { 0 } else { classes.of(&ports.to_vec()) },
                owner: pod.and_then(|pod| owners.get(pod)).copied().unwrap_or_default(),
            };
            content.places.push((address, place));
        }
        for (ports, class) in &classes.0 {
            for one in ports {
                // A name that no rule has is asked for by none.
                let Some(name) = names.get(&one.name) else { continue };
                let (port, protocol) = (one.port.number, number(one.port.protocol));
                content.port_names.push(PortName {
                    class: *class,
                    name,
                    port,
                    protocol,
                    reserved: 0,
                });
            }
        }
        content.ranges = ranges(view, &mut rows);
        // No rule about ranges means what has no address.
        let nothing = Range { cidrs: ROW_NONE, ..Range::default() };
        content.ranges.extend(StandIns::RANGES.map(|range| (range, nothing)));
        content.rows = rows;
        if compiler.selectors() > SELECTORS {
            return Err(too_many("the selectors of all rules", compiler.selectors(), SELECTORS));
        }
        Ok(content)
    }

    /// How large tables must be for it.
    pub(crate) fn sizes(&self) -> Sizes {
        let room = |count: usize| {
            let count = u32::try_from(count).unwrap_or(u32::MAX - 1);
            (count + 1).checked_next_power_of_two().unwrap_or(u32::MAX)
        };
        let hosts = self.hosts.values().map(|(addresses, _)| addresses.len()).max();
        Sizes {
            places: room(self.places.len() + 1),
            rows: room(self.rows.len()),
            ranges: room(self.ranges.len()),
            sets: room(self.sets.len()),
            rules: room(self.rules.len()),
            port_names: room(self.port_names.len()),
            endpoints: room(self.endpoints.len().max(hosts.unwrap_or_default())),
        }
    }

    fn add_set(&mut self, set: &Arc<Set>, names: &mut Numbers<String>) -> Result<u32, KernelError> {
        let limit = usize::try_from(RULES_OF_A_SET).unwrap_or(usize::MAX);
        if set.rules.len() > limit {
            return Err(too_many("the rules of a pod", set.rules.len(), limit));
        }
        self.headers.push(SetHeader {
            start: number_of(self.rules.len()),
            count: u16::try_from(set.rules.len()).unwrap_or(u16::MAX),
            default_deny: set.default_deny,
        });
        for rule in &set.rules {
            self.rules.push(rule_of(rule, names)?);
        }
        self.sets.push(set.clone());
        Ok(number_of(self.sets.len()) - 1)
    }
}

/// What each range is to the tables: the look-up finds only the longest, so each has all that those around it say.
fn ranges(view: &View<'_>, rows: &mut Rows) -> Vec<(IpNet, Range)> {
    let compiler = view.compiler();
    let pods: BTreeMap<IpNet, Class> = view.pod_ranges().collect();
    let around = |range: &IpNet| {
        let pods = pods.iter().filter(|(pods, _)| pods.contains(range));
        pods.max_by_key(|(pods, _)| pods.prefix_len()).map(|(_, class)| class)
    };
    let mut known: BTreeMap<IpNet, Class> = BTreeMap::new();
    for (address, class) in view.externals() {
        known.insert(address.into(), class);
    }
    let prefixes = compiler.prefixes().map(|(prefix, _)| *prefix);
    let mut all: Vec<IpNet> = prefixes.chain(pods.keys().copied()).collect();
    all.extend(known.keys());
    all.sort_unstable();
    all.dedup();
    let value = |range: &IpNet| {
        let unknown = around(range);
        let v6 = range.addr().is_ipv6();
        let (base, row) = match (unknown, known.get(range)) {
            (Some(class), _) => (Base::Unknown, rows.number(compiler.row(class))),
            (None, Some(class @ Class::World { kube_apiserver: true, .. })) => {
                (Base::World, rows.number(compiler.row(class)))
            }
            (None, _) => (Base::World, if v6 { ROW_WORLD_V6 } else { ROW_WORLD_V4 }),
        };
        let cidrs = rows.number(compiler.cidrs_of(range));
        Range { base: base as u32, row, cidrs, reserved: 0 }
    };
    let values: Vec<Range> = all.iter().map(value).collect();
    all.into_iter().zip(values).collect()
}

fn rule_of(rule: &SetRule, names: &mut Numbers<String>) -> Result<Rule, KernelError> {
    let selector = match rule.number {
        None => None,
        Some(number) => match u16::try_from(number) {
            Ok(number) if usize::from(number) < SELECTORS => Some(number),
            _ => return Err(too_many("the selectors of all rules", number as usize, SELECTORS)),
        },
    };
    let ports = match &rule.port {
        None => RulePorts::All,
        Some(SetPort::Known(PortMatch::Range { protocol, first, last })) => {
            RulePorts::Range { protocol: number(*protocol), first: *first, last: *last }
        }
        Some(SetPort::Known(PortMatch::Icmp { family, kind })) => {
            let protocol = match family {
                IcmpFamily::V4 => 1,
                IcmpFamily::V6 => 58,
            };
            RulePorts::Icmp { protocol, kind: *kind }
        }
        Some(SetPort::Known(PortMatch::Protocol(protocol))) => RulePorts::Protocol(*protocol),
        Some(
            SetPort::Named(protocol, name) | SetPort::Known(PortMatch::Named { protocol, name }),
        ) => RulePorts::Named { protocol: protocol.map_or(0, number), name: names.of(name) },
    };
    Ok(Rule { selector, deny: rule.action == Action::Deny, ports })
}

/// The protocol's number in the IP header (IANA, "Protocol Numbers").
fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn too_many(what: &str, count: usize, limit: usize) -> KernelError {
    KernelError::TooMany { what: what.into(), count, limit }
}

fn number_of(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

// === impl Numbers ===

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Clone + Eq + std::hash::Hash> Numbers<T> {
    fn of(&mut self, named: &T) -> u32 {
        if let Some(number) = self.0.get(named) {
            return *number;
        }
        let number = number_of(self.0.len()) + 1;
        self.0.insert(named.clone(), number);
        number
    }

    fn get(&self, named: &T) -> Option<u32> {
        self.0.get(named).copied()
    }
}

// === impl Filled ===

impl Filled {
    /// Writes the content to a copy's tables, instead of what was there. Nothing is judged meanwhile, so no number has to
    /// rest.
    pub(crate) fn fill(&mut self, copy: &mut Copy, content: Content) -> Result<(), KernelError> {
        let tables = &mut copy.tables;
        for (index, address) in (FIRST_PLACE..).zip(self.places.drain(..)) {
            tables.remove_address(address)?;
            tables.places.clear(index);
        }
        self.ranges.drain(..).try_for_each(|range| tables.remove_range(range))?;
        self.port_names.drain(..).try_for_each(|name| tables.remove_port_name(&name))?;
        tables.set_host(&[], ROW_NONE)?;
        let [world_v4, world_v6] = &content.world;
        for (row, words) in [
            (ROW_NONE, &[] as &[u64]),
            (ROW_IN_MESH, &content.in_mesh),
            (ROW_WORLD_V4, world_v4),
            (ROW_WORLD_V6, world_v6),
        ] {
            tables.set_row(row, words);
        }
        for (number, row) in content.rows.iter() {
            tables.set_row(number, row.words());
        }
        for (range, value) in &content.ranges {
            tables.set_range(*range, *value)?;
            self.ranges.push(*range);
        }
        for name in &content.port_names {
            tables.add_port_name(*name)?;
            self.port_names.push(*name);
        }
        for (index, (address, place)) in (FIRST_PLACE..).zip(&content.places) {
            tables.places.set(index, place);
            tables.set_address(*address, index)?;
            self.places.push(*address);
        }
        for (index, rule) in (0..).zip(&content.rules) {
            tables.set_rule(index, *rule);
        }
        for (number, header) in (0..).zip(&content.headers) {
            tables.set_set(number, *header);
        }
        self.endpoints.clear();
        self.endpoint_sets.clear();
        for (number, (name, sets)) in (0..).zip(content.endpoints) {
            tables.set_endpoint(number, sets);
            self.endpoints.insert(name, number);
            self.endpoint_sets.push(sets);
        }
        tables.set_state(STATE_FLAGS, content.flags);
        (self.sets, self.hosts, self.node) = (content.sets, content.hosts, None);
        Ok(())
    }

    /// The number of a pod.
    pub(crate) fn endpoint(&self, pod: &PodName) -> Option<u32> {
        self.endpoints.get(pod).copied()
    }

    /// The set of a pod's direction.
    pub(crate) fn set(&self, endpoint: u32, direction: Direction) -> Option<&Set> {
        let sets = self.endpoint_sets.get(usize::try_from(endpoint).ok()?)?;
        let number = match direction {
            Direction::Egress => sets.egress,
            Direction::Ingress => sets.ingress,
        };
        self.sets.get(usize::try_from(number).ok()?).map(|set| &**set)
    }

    /// From now on it is the node of this name.
    pub(crate) fn be_node(&mut self, copy: &mut Copy, node: &str) -> Result<(), KernelError> {
        if self.node.as_deref() == Some(node) {
            return Ok(());
        }
        match self.hosts.get(node) {
            Some((addresses, row)) => copy.tables.set_host(addresses, *row)?,
            None => copy.tables.set_host(&[], ROW_NONE)?,
        }
        self.node = Some(node.to_owned());
        Ok(())
    }
}
