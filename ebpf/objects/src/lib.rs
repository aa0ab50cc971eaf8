//! The kernel programs (`ebpf/programs`), built by `build.rs`, as objects to load. They are built once, whoever loads them.

/// Balances the sockets of a node's pods.
pub static SERVICES: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh-programs.o"));
/// Answers probes of other nodes.
pub static PROBE: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh-probe.o"));
/// Judges the packets of pods.
pub static POLICY: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh-policy.o"));
/// Looks places up for a test.
pub static HAMMER: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh-hammer.o"));
