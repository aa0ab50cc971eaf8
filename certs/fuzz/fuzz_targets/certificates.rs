//! libFuzzer's way to `mesh_certs_fuzz::certificates`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_certs_fuzz::certificates(data));

#[cfg(not(fuzzing))]
fn main() {}
