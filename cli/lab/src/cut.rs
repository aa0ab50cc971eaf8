//! Cuts: pairs of locations in a lab between which packets are dropped, limited in rate, or delayed.
//!
//! All nodes are connected to one bridge, so nftables rules on the bridge can drop packets from one port to another.
//! Packets of an etcd's node to that etcd do not pass the bridge; they are dropped on the node. Delayed traffic to an etcd
//! goes through a relay on the etcd's node. At each change, all rules are replaced in one step by those for the list of
//! cuts, so a healed cut leaves nothing behind.

mod latency_proxy;
mod rules;

use std::{collections::BTreeSet, process::Command};

use crate::{
    command::{enter_netns, run},
    error::LabError,
    lab::Lab,
    link_fault::{Cut, Impairment},
};
use rules::{Rules, spots};

/// The name of the nftables tables, in the underlay and on nodes.
const TABLE: &str = "clustermesh-lab";
// === impl Lab ===

impl Lab {
    /// Blocks or impairs the network between two locations. A cut between the same locations, with the same port, is
    /// replaced.
    pub fn cut(
        &mut self,
        places: [&str; 2],
        port: Option<u16>,
        impairment: Option<Impairment>,
    ) -> Result<Cut, LabError> {
        let cut = Cut { places: in_order(places), port, impairment };
        // Fails for an invalid cut before anything is changed.
        Rules::default().add(&self.state, |_, _| String::new(), &cut)?;
        let mut cuts = self.state.cuts.clone();
        cuts.retain(|other| (&other.places, other.port) != (&cut.places, cut.port));
        cuts.push(cut.clone());
        self.set_cuts(cuts)?;
        Ok(cut)
    }

    /// Heals the cuts between two locations, or all cuts. Returns the healed ones.
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
        // Saved first: if a step below fails, the next change removes what was done.
        self.state.cuts = cuts;
        self.save()?;
        // A relay must listen before connections are redirected to it.
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
            // It may not exist: the process that should have added it may have been killed.
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
