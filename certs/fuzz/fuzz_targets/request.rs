//! libFuzzer's way to `mesh_certs_fuzz::request`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_certs_fuzz::request(data));

#[cfg(not(fuzzing))]
fn main() {}
