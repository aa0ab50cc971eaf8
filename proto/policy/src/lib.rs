//! Policies as their authors write them: NetworkPolicy, CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy, checked
//! and in one form (`docs/policy.md`).
//!
//! [`parse()`] reads one object. It either understands all of it, or says field by field what it refuses: a rule that is
//! understood by half would allow or deny something else than what its author wrote.
//!
//! Architecture invariant: no IO, no knowledge of pods and clusters. What rules mean for them is `mesh-policy`'s matter.

mod cidr;
mod cilium;
mod fields;
mod label_selector;
mod network_policy;
mod outline;
mod parse;
mod path;
mod port;
mod read;
mod rule;
mod selector;
#[cfg(test)]
mod shown;

pub use mesh_model::{PolicyKind, PolicyRef, Refusal, RefusalClass};

pub use fields::{Field, Schema, Support, fields_markdown};
pub use outline::outline;
pub use parse::{Checked, Governed, parse};
pub use port::icmp_type;
pub use rule::{
    Action, CidrRule, DirectionRules, Entity, IcmpFamily, Peer, Peers, Policy, PortMatch, PortRule,
    Ports, Rule, ServiceMatch,
};
pub use selector::{Operator, Requirement, Selector};
