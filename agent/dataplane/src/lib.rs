//! The load balancer's tables in the kernel: their content, how it is changed while programs read them, and the
//! programs themselves.
//!
//! [`Tables`] is the one writer. It keeps a mirror of what it wrote, so a change costs only itself, and it can rebuild
//! that mirror from the kernel alone ([`Tables::restore`]): an agent that starts finds its predecessor's tables, takes
//! them over, and writes only what differs.
//!
//! Architecture invariant: this crate knows neither etcd nor peers. The wanted content of the tables comes in as
//! [`mesh_model::lb::Change`].

mod capabilities;
mod container;
mod convert;
mod error;
mod forecast;
mod foreign_cgroups;
mod hooks;
mod kernel;
mod kernel_trial;
mod lb_writer;
mod maps;
mod own_cgroup;
mod pinned;
mod pins;
mod probe_answer;
mod programs;
mod room;
mod shape;
mod slots;
mod socket_list;
mod tables;
mod takeover;
mod ungrouped;

pub use capabilities::missing_capabilities;
pub use container::is_container;
pub use error::{MapsError, ProgramsError};
pub use forecast::{Forecast, Level};
pub use foreign_cgroups::{ForeignCgroups, NoEffect};
pub use kernel::{Kernel, Listed, Sizes};
pub use kernel_trial::{KernelTrial, TrialError, try_kernel};
pub use lb_writer::{LbKey, LbValue, LbWriter};
pub use maps::{KernelMaps, PeerStates};
pub use mesh_reconcile::Left;
pub use own_cgroup::Bypass;
pub use pins::{PinError, PinLock, PinRoot};
pub use probe_answer::{AnswerState, ProbeAnswer, ProbeAnswerError};
pub use programs::{HookAudit, OtherProgram, Programs, kernel_release};
pub use room::{flag_of, larger_table};
pub use shape::Shape;
pub use socket_list::SocketList;
pub use tables::{
    AuditCursor, BackendWithId, ClusterUse, Inherited, Occupancy, Repairs, Shortage, Tables,
    TablesError, View,
};
pub use takeover::{Former, TakeOverError, TakenOver, take_over, take_over_step_by_step};
