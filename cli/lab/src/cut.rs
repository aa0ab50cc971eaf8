//! Cuts: places of a lab between which packets are lost, only trickle, or come late.
//!
//! All nodes hang on one bridge, so what two of them say to each other passes there: nftables drops it on the way from
//! one port to the other. What an etcd's own node says to it never leaves that node, and is dropped there. What an etcd
//! hears late goes through a relay on its node. The rules are made anew, in one step, from the list of all cuts: what is
//! healed leaves nothing behind.

mod latency_proxy;
mod rules;

use std::{collections::BTreeSet, fmt, process::Command};

use serde::{Deserialize, Serialize};

use crate::{
    command::{enter_netns, run},
    error::LabError,
    lab::Lab,
};
pub use latency_proxy::Relay;
use rules::{Rules, spots};

/// Two places that do not hear each other well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cut {
    /// The places: a cluster (`a`), a node (`a/n1`), or a replica's etcd (`a/etcd`, `a/etcd2`). In order, so that a cut from b to a
    /// is the one from a to b.
    pub places: [String; 2],
    /// Only what goes to this port, and what comes back from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What still passes each way; nothing, unless given.
    #[serde(flatten)]
    pub passes: Option<Passes>,
}

/// What a cut lets through, each way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Passes {
    /// So much a second, as `tc` writes rates.
    Rate(String),
    /// All but so many packets of a hundred.
    Loss(u8),
    /// Everything, so many milliseconds later. Only to an etcd.
    Delay(u32),
}

/// The tables' name, in the underlay and on nodes.
const TABLE: &str = "clustermesh-lab";
/// The longest delay, in milliseconds: longer is a cut.
const LONGEST: u32 = 10_000;

// === impl Lab ===

impl Lab {
    /// Cuts two places off from each other, wholly or so that something passes. Done twice, it is done once; if something
    /// else is to pass, that is in force.
    pub fn cut(
        &mut self,
        places: [&str; 2],
        port: Option<u16>,
        passes: Option<Passes>,
    ) -> Result<Cut, LabError> {
        let cut = Cut { places: in_order(places), port, passes };
        // What cannot be cut is said before anything is changed.
        Rules::default().add(&self.state, |_, _| String::new(), &cut)?;
        let mut cuts = self.state.cuts.clone();
        cuts.retain(|other| (&other.places, other.port) != (&cut.places, cut.port));
        cuts.push(cut.clone());
        self.set_cuts(cuts)?;
        Ok(cut)
    }

    /// Heals what is cut between two places, or everything. Returns what was healed.
    pub fn heal(&mut self, places: Option<[&str; 2]>) -> Result<Vec<Cut>, LabError> {
        if let Some(places) = places {
            for place in places {
                spots(&self.state, place)?;
            }
        }
        let places = places.map(in_order);
        let is_healed = |cut: &Cut| places.as_ref().is_none_or(|places| *places == cut.places);
        let (healed, left) = self.state.cuts.iter().cloned().partition(is_healed);
        self.set_cuts(left)?;
        Ok(healed)
    }

    fn set_cuts(&mut self, cuts: Vec<Cut>) -> Result<(), LabError> {
        let before = self.rules(&self.state.cuts)?;
        let after = self.rules(&cuts)?;
        // What was made is known from now on, should a step of it fail.
        self.state.cuts = cuts;
        self.save()?;
        // Somebody must listen before anybody is led there.
        self.start_relays(&after.late)?;
        let underlay = self.name.underlay();
        nft(&underlay, &rules::table("bridge", "forward", &after.bridge))?;
        let nodes = before.nodes.iter().chain(&after.nodes);
        let nodes: BTreeSet<&str> = nodes.map(|(netns, _)| netns.as_str()).collect();
        for netns in nodes {
            let rules = after.nodes.iter().find(|(other, _)| other == netns);
            let rules = rules.map(|(_, rules)| rules.as_slice()).unwrap_or_default();
            nft(netns, &rules::table("inet", "input", rules))?;
        }
        let late = before.late.iter().chain(&after.late);
        let late: BTreeSet<&str> = late.map(|late| late.netns.as_str()).collect();
        for netns in late {
            nft(
                netns,
                &latency_proxy::table(after.late.iter().filter(|late| late.netns == netns)),
            )?;
        }
        self.stop_relays(&after.late)?;
        for (link, _) in &before.rates {
            // It may not be there: whoever was to make it may have been killed before.
            let _ = tc(&underlay, &[format!("qdisc delete dev {link} root")]);
        }
        for (link, rates) in &after.rates {
            tc(&underlay, &rules::classes(link, rates))?;
        }
        Ok(())
    }

    fn rules(&self, cuts: &[Cut]) -> Result<Rules, LabError> {
        let mut rules = Rules::default();
        for cut in cuts {
            rules.add(&self.state, |cluster, node| self.name.link(cluster, node), cut)?;
        }
        Ok(rules)
    }
}

// === impl Cut ===

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [one, other] = &self.places;
        write!(f, "{one} – {other}")?;
        if let Some(port) = self.port {
            write!(f, ", port {port}")?;
        }
        match &self.passes {
            Some(passes) => write!(f, ", {passes}"),
            None => Ok(()),
        }
    }
}

// === impl Passes ===

impl Passes {
    /// The flags of `lab cut` that mean it.
    pub fn to_flag(&self) -> Vec<String> {
        let (flag, value) = match self {
            Self::Rate(rate) => ("--rate", rate.clone()),
            Self::Loss(percent) => ("--loss", format!("{percent}%")),
            Self::Delay(millis) => ("--delay", format!("{millis}ms")),
        };
        vec![flag.into(), value]
    }

    /// A rate that `tc` takes: a number and its unit.
    pub fn rate(rate: &str) -> Result<Self, LabError> {
        let (number, unit) = number(rate);
        if number.is_some_and(|number| number > 0)
            && ["bit", "kbit", "mbit", "gbit"].contains(&unit)
        {
            Ok(Self::Rate(rate.into()))
        } else {
            Err(LabError::Rate(rate.into()))
        }
    }

    /// A share of packets, as in `30%`.
    pub fn loss(loss: &str) -> Result<Self, LabError> {
        let invalid = || LabError::Loss(loss.into());
        match number(loss) {
            // None lost is no cut, and all lost is a whole one.
            (Some(percent @ 1..100), "%") => {
                Ok(Self::Loss(u8::try_from(percent).map_err(|_| invalid())?))
            }
            _ => Err(invalid()),
        }
    }

    /// A time, as in `200ms`.
    pub fn delay(delay: &str) -> Result<Self, LabError> {
        let millis = match number(delay) {
            (Some(number), "ms") => Some(number),
            (Some(number), "s") => number.checked_mul(1_000),
            _ => None,
        };
        let millis = millis.filter(|millis| (1..=LONGEST).contains(millis));
        millis.map(Self::Delay).ok_or_else(|| LabError::Delay(delay.into()))
    }
}

impl fmt::Display for Passes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate(rate) => f.write_str(rate),
            Self::Loss(percent) => write!(f, "{percent}% lost"),
            Self::Delay(millis) => write!(f, "{millis} ms late"),
        }
    }
}

/// A number and what follows it.
fn number(text: &str) -> (Option<u32>, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    (number.parse().ok(), unit)
}

fn in_order(places: [&str; 2]) -> [String; 2] {
    let mut places = places.map(str::to_owned);
    places.sort();
    places
}

fn nft(netns: &str, rules: &str) -> Result<(), LabError> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]);
    enter_netns(&mut command, netns)?;
    run(command, rules).map(|_| ())
}

fn tc(netns: &str, lines: &[String]) -> Result<(), LabError> {
    let mut command = Command::new("tc");
    command.args(["-batch", "-"]);
    enter_netns(&mut command, netns)?;
    run(command, &(lines.join("\n") + "\n")).map(|_| ())
}

#[cfg(test)]
mod tests;
