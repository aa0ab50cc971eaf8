//! Whether other nodes and clusters answer, and what follows at once: probes, the echo that answers others', verdicts, and the
//! clusters' words in the kernel.
//!
//! [`Health`] runs all of it in a thread of its own. It is given [`Order`]s, writes through [`PeerStates`], and reports
//! [`Verdict`]s and a [`Report`]. [`HealthView`] is what the agent's core makes of the verdicts.
//!
//! A death is decided by [`Prober`], what is written by [`ClusterWords`] and which sockets end by [`Endings`]; [`Machine`]
//! joins them. None of these has IO or a clock, so tests drive them at any pace.
//!
//! Architecture invariant: nothing here waits for the rest of the agent, and nothing else writes the clusters' words.

mod datagram;
mod echo;
mod endings;
mod health;
mod machine;
mod order;
mod prober;
mod question;
mod report;
mod socket;
mod targets;
mod thread;
mod verdict;
mod view;
mod words;

pub use self::{
    endings::{EndingPolicy, Endings},
    health::{Health, HealthError, HealthOptions, Verdicts},
    machine::Machine,
    order::{Etcd, EtcdLink, EtcdState, Order},
    prober::{Alive, Prober},
    question::{Answerer, Probe, Question, Reply, Versions},
    report::{ClusterHealth, Counts, Report, Words},
    targets::Target,
    verdict::{Ending, Scope, Verdict},
    view::{HealthView, Nodes, ViewChange},
    words::{ClusterWords, PeerStates, Write},
};
