//! libFuzzer's way to `mesh_source_fuzz::drain`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_source_fuzz::drain(data));

#[cfg(not(fuzzing))]
fn main() {}
