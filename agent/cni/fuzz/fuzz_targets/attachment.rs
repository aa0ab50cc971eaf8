//! libFuzzer's way to `mesh_cni_fuzz::attachment`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_cni_fuzz::attachment(data));

#[cfg(not(fuzzing))]
fn main() {}
