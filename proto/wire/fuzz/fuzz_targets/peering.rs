//! Runs `mesh_wire_fuzz::peering` under libFuzzer.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_wire_fuzz::peering(data));

#[cfg(not(fuzzing))]
fn main() {}
