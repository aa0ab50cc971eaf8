//! Runs `mesh_verdict_fuzz::batch` under libFuzzer.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_verdict_fuzz::batch(data));

#[cfg(not(fuzzing))]
fn main() {}
