//! The libFuzzer target of `mesh_offline_fuzz::events`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_offline_fuzz::events(data));

#[cfg(not(fuzzing))]
fn main() {}
