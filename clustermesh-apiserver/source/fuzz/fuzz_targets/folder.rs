//! libFuzzer's way to `mesh_source_fuzz::folder`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_source_fuzz::folder(data));

#[cfg(not(fuzzing))]
fn main() {}
