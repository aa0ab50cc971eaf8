//! Whether other nodes and clusters answer, and what follows immediately: probes, the echo that answers others',
//! verdicts, and the clusters' state words in the kernel.
//!
//! [`Health`] runs all of it in a thread of its own. It takes [`Order`]s, writes through [`PeerStates`], and reports
//! [`Verdict`]s and a [`Report`]. [`HealthView`] is what the agent's core derives from the verdicts.
//!
//! [`Prober`] decides a death, [`ClusterWords`] what is written and [`Endings`] which sockets end; [`Machine`] joins
//! them. None of these has IO or a clock, so tests drive them at any speed.
//!
//! Architecture invariant: nothing here waits for the rest of the agent, and nothing else writes the clusters' state
//! words.

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
