//! Runs `mesh_wire_fuzz::entry` under libFuzzer.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_wire_fuzz::entry(data));

#[cfg(not(fuzzing))]
fn main() {}
