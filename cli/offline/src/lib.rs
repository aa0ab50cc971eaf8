//! Computes from files what clusters would export to each other, and which backends a cluster's clients would use.
//!
//! The daemons' crates compute everything: the apiserver's source reads objects, its exporter turns them into keys, and the
//! agent's crates decode, merge and balance the records. This crate joins them, and reads and writes the files
//! (`docs/offline.md`).

mod cluster;
mod diff;
mod dump;
mod events;
mod explained;
mod exports;
mod identity_allocator;
mod importer;
mod keys_file;
mod objects;
mod simulation;
mod state;
mod unserved;
mod without_backends;

pub use cluster::{Cluster, ClusterSetup};
pub use diff::{Difference, Scope, diff};
pub use dump::{Deviation, Dump, DumpEntry, EtcdContent};
pub use events::{
    Event, EventsError, EventsProblem, InvalidTime, ScenarioEvent, parse_events, parse_time,
    read_events, time,
};
pub use explained::{ExplainedBackend, ExplainedFrontend, InvalidServiceQuery, ServiceQuery};
pub use keys_file::{KeysFile, KeysFileError, KeysFileProblem};
pub use objects::{Objects, ObjectsError};
pub use simulation::{Options, Simulation, SimulationError};
pub use state::{ClusterState, Content, State, StateError, limit_of, settings_beside};
pub use unserved::Unserved;
