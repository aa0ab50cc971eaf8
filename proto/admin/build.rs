//! Generates the code of the admin API, and passes the commit to the compiler.

use std::{error::Error, path::Path, process::Command};

const ROOT: &str = "proto";
const FILE: &str = "clustermesh/admin/v1/admin.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={ROOT}");
    let descriptors = protox::compile([FILE], [ROOT])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;

    let head = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let commit = head.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    let commit = commit.and_then(|bytes| String::from_utf8(bytes).ok());
    println!(
        "cargo::rustc-env=CLUSTERMESH_COMMIT={}",
        commit.as_deref().unwrap_or("unknown").trim()
    );
    let log = Path::new("../../.git/logs/HEAD");
    if log.exists() {
        println!("cargo::rerun-if-changed={}", log.display());
    }
    Ok(())
}
