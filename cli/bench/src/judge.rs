//! What judging costs a packet in the kernel: by rules, and of a flow that was allowed.
//!
//! The programs are copies, run by `BPF_PROG_TEST_RUN` many times a call, which measures itself. The reference is a packet
//! that is not judged: what the run costs without a decision.

use std::net::{IpAddr, Ipv6Addr};

use mesh_layout::{
    address_bytes,
    policy::{
        FlowDirection, Place, PolicyEndpoint, ROW_FIRST, RULES_OF_A_SET, Rule, RulePorts, SetHeader,
    },
};
use mesh_policy_kernel::{Carried, Copy, Packet, Sizes};
use serde::Serialize;

use crate::{error::BenchError, stats::median};

/// The parameters of [`judge`].
#[derive(Clone, Copy, Debug)]
pub struct JudgeOptions {
    /// Addresses of the mesh.
    pub addresses: u32,
    /// How often each packet is judged in a round.
    pub packets: u32,
    /// Rounds.
    pub rounds: u32,
}

/// What a packet costs a pod with a number of rules. Times are the kernel's own measurement, medians.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JudgeCost {
    /// Addresses of the mesh.
    pub addresses: u32,
    /// Rules of the pod, of which the last matches.
    pub rules: u32,
    /// A packet that is not judged, in nanoseconds.
    pub other_nanos: f64,
    /// One that begins a connection: by the rules, and then it is remembered.
    pub first_nanos: f64,
    /// One more of that connection.
    pub flow_nanos: f64,
    /// The ratio of one more to one that is not judged.
    pub ratio: f64,
}

const POD: u32 = 1;
const SET: u32 = 1;
const SELECTOR: u16 = 1;
const PORT: u16 = 443;
const CLIENT: u16 = 50_000;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// Measures with one rule, an eighth of what a pod can have, and all of it.
pub fn judge(
    options: JudgeOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<JudgeCost>, BenchError> {
    let sizes = [1, RULES_OF_A_SET / 8, RULES_OF_A_SET];
    let mut rows = Vec::new();
    for (done, rules) in (0..).zip(sizes) {
        progress(done, 3);
        rows.push(measure(options, rules)?);
    }
    Ok(rows)
}

fn measure(options: JudgeOptions, rules: u32) -> Result<JudgeCost, BenchError> {
    let JudgeOptions { addresses, packets, rounds } = options;
    let places = addresses + 1;
    let sizes = Sizes { places, rules: RULES_OF_A_SET, ..Sizes::default() };
    let mut copy = Copy::load(sizes)?;
    let tables = &mut copy.tables;
    tables.set_row(ROW_FIRST, &[1 << SELECTOR]);
    for number in 1..=addresses {
        let address = address(number);
        let (identity, row) = (number, ROW_FIRST);
        let place = Place { address: address_bytes(address), identity, row, ports: 0, owner: 0 };
        tables.places.set(number, &place);
        tables.set_address(address, number)?;
    }
    let rule = |port| Rule {
        selector: Some(SELECTOR),
        deny: false,
        ports: RulePorts::Range { protocol: 6, first: port, last: port },
    };
    for index in 0..rules {
        tables.set_rule(index, rule(if index + 1 == rules { PORT } else { PORT + 1 }));
    }
    let count = u16::try_from(rules).unwrap_or(u16::MAX);
    tables.set_set(SET, SetHeader { start: 0, count, default_deny: true });
    tables.set_endpoint(POD, PolicyEndpoint { egress: SET, ingress: SET });

    let tcp = |flags| {
        let carried = Carried::Tcp(CLIENT, PORT, flags);
        Packet::new(address(0), address(addresses), carried).bytes()
    };
    // A type of Ethernet frame that is none of IP.
    let mut other = tcp(0);
    if let Some([high, low]) = other.get_mut(12..14) {
        (*high, *low) = (0x08, 0x06);
    }
    let mut time = |packet: &[u8]| -> Result<f64, BenchError> {
        let mut times = Vec::new();
        for _ in 0..rounds {
            times.push(copy.programs.time(FlowDirection::Egress, POD, packet, packets)? as f64);
        }
        Ok(median(times))
    };
    let (other_nanos, first_nanos, flow_nanos) =
        (time(&other)?, time(&tcp(SYN))?, time(&tcp(ACK))?);
    let ratio = flow_nanos / other_nanos;
    Ok(JudgeCost { addresses, rules, other_nanos, first_nanos, flow_nanos, ratio })
}

fn address(number: u32) -> IpAddr {
    Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(number)).into()
}
