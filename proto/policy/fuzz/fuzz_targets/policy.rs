//! Runs `mesh_policy_rules_fuzz::policy` under libFuzzer.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_policy_rules_fuzz::policy(data));

#[cfg(not(fuzzing))]
fn main() {}
