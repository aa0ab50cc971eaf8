//! Generates code for the part of etcd's API that is served.

use std::error::Error;

const ROOT: &str = "proto";
const FILE: &str = "etcd.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={ROOT}");
    let descriptors = protox::compile([FILE], [ROOT])?;
    // `Bytes`: responses share keys and values instead of copying them.
    tonic_prost_build::configure().bytes(".").build_client(false).compile_fds(descriptors)?;
    Ok(())
}
