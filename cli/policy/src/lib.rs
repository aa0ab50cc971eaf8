//! Answers flow by flow what policies decide, without a cluster (`docs/policy.md`).
//!
//! Inputs are read in the forms that users have (manifests, `kubectl get -o json`, short lists), and judged by the code
//! that nodes enforce (`mesh-policy`). Nothing is half-evaluated: an input that is not understood is named, and there is no
//! answer.
//!
//! Architecture invariant: no network, no cluster; files only through the caller.

mod batch;
mod documents;
mod entry;
mod file;
mod flow;
mod flows_file;
mod kubectl;
mod lint;
mod matrix;
mod options;
mod problem;
mod service;
mod steps;
mod verdict;
mod world;

pub use batch::{Asked, BatchAnswer, answer_line, answer_line_by};
pub use documents::documents;
pub use entry::Entry;
pub use file::{PolicyFile, entries, policy_files, policy_files_of_all, read_policies};
pub use flow::{Flow, FlowProtocol};
pub use flows_file::flows;
pub use lint::{Change, Finding, Lint, lint};
pub use matrix::{Matrix, PortQuery, matrix};
pub use options::VerdictOptions;
pub use problem::Problem;
pub use steps::{Step, StepAnswer, run_steps};
pub use verdict::{BackendVerdict, DecidedBy, Reason, Side, Verdict, judge};
pub use world::{SharedJudge, World};
