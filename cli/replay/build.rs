//! Makes the code of the part of etcd's API that is served.

use std::error::Error;

const ROOT: &str = "proto";
const FILE: &str = "etcd.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={ROOT}");
    let descriptors = protox::compile([FILE], [ROOT])?;
    // Keys and values are shared by all that are sent, not copied for each.
    tonic_prost_build::configure().bytes(".").build_client(false).compile_fds(descriptors)?;
    Ok(())
}
