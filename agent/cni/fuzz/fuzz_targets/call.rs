//! libFuzzer's way to `mesh_cni_fuzz::call`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_cni_fuzz::call(data));

#[cfg(not(fuzzing))]
fn main() {}
