//! Builds the kernel programs (`ebpf/programs`) with the compiler and for the target they need.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// Debian's toolchain, which has `core` for the kernel's target.
const CARGO: &str = "/usr/bin/cargo";
const RUSTC: &str = "/usr/bin/rustc";
const TARGET: &str = "bpfel-unknown-none";
const STRIP: &str = "/usr/lib/llvm-22/bin/llvm-strip";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo::error={error}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let root = variable("CARGO_MANIFEST_DIR")?.join("../..");
    let root = root.canonicalize().map_err(|e| format!("{}: {e}", root.display()))?;
    let out = variable("OUT_DIR")?;
    let programs = root.join("ebpf/programs");
    for path in [
        "ebpf/programs/src",
        "ebpf/programs/Cargo.toml",
        "ebpf/programs/Cargo.lock",
        "ebpf/layout/src",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    let linker = check_toolchain()?;

    // Paths of this machine stay out of the object: the same source gives the same bytes anywhere.
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cargo")))
        .ok_or("neither CARGO_HOME nor HOME is set")?;
    let flags = [
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", linker.display()),
        format!("--remap-path-prefix={}/registry/src=/cargo", cargo_home.display()),
        format!("--remap-path-prefix={}=/src", root.display()),
    ];
    let target_dir = out.join("programs");
    let status = Command::new(CARGO)
        .args(["build", "--release", "--locked", "--target", TARGET])
        .current_dir(&programs)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", env::var_os("HOME").unwrap_or_default())
        .env("CARGO_HOME", &cargo_home)
        .env("RUSTC", RUSTC)
        .env("CARGO_TARGET_DIR", &target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .status()
        .map_err(|e| format!("{CARGO}: {e}"))?;
    if !status.success() {
        return Err("the kernel programs do not build; the compiler's words are above".into());
    }

    // Without the debug information that nothing reads at run time; the maps' definitions stay.
    for object in ["mesh-programs", "mesh-probe", "mesh-policy", "mesh-hammer"] {
        let stripped = out.join(object).with_extension("o");
        let built = target_dir.join(TARGET).join("release").join(object);
        match Command::new(STRIP).arg("-g").arg("-o").args([&stripped, &built]).status() {
            Ok(status) if status.success() => {}
            Ok(status) => return Err(format!("{STRIP}: {status}")),
            Err(e) => return Err(format!("{STRIP}: {e}")),
        }
    }
    Ok(())
}

/// Finds what builds the kernel programs, or returns how to get it.
fn check_toolchain() -> Result<PathBuf, String> {
    let core = Path::new("/usr/lib/rustlib").join(TARGET);
    let in_path = env::var_os("PATH").unwrap_or_default();
    let home = env::var_os("HOME").map(|home| Path::new(&home).join(".cargo/bin"));
    let linker = env::split_paths(&in_path)
        .chain(home)
        .map(|folder| folder.join("bpf-linker"))
        .find(|path| path.is_file());
    let missing = [
        (!Path::new(RUSTC).is_file()).then_some(RUSTC),
        (!Path::new(CARGO).is_file()).then_some(CARGO),
        (!core.is_dir()).then_some("Rust's core library for bpfel-unknown-none"),
        (!Path::new(STRIP).is_file()).then_some(STRIP),
        linker.is_none().then_some("bpf-linker"),
    ];
    let missing: Vec<&str> = missing.into_iter().flatten().collect();
    match linker {
        Some(linker) if missing.is_empty() => Ok(linker),
        _ => Err(format!(
            "the toolchain for the kernel programs is incomplete: {} missing. Run `make setup` once.",
            missing.join(", ")
        )),
    }
}

fn variable(name: &str) -> Result<PathBuf, String> {
    println!("cargo::rerun-if-env-changed={name}");
    env::var_os(name).map(PathBuf::from).ok_or_else(|| format!("{name} is not set"))
}
