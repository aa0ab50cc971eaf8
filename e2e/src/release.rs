//! Agents of earlier releases, built from their commits, for tests of upgrades.

use std::{
    env,
    fs::{self, File},
    io::Write as _,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::fcntl::{Flock, FlockArg};

/// The last commit before groups of maps had their own layouts.
pub const UNGROUPED: &str = "6120241";

/// A folder with this build's executables, in which the agent can be replaced by that of another release.
#[derive(Debug)]
pub struct Releases {
    folder: PathBuf,
    /// The agent of this build.
    current: PathBuf,
    /// The agent of the earlier release.
    earlier: PathBuf,
}

/// The executable that is replaced.
const AGENT: &str = "clustermesh-agent";
/// Flags of the lab's agents that the earlier release does not have, and what it gets instead.
const OTHER_FLAGS: [(&str, &str); 1] = [("--replace-kube-proxy=force", "--replace-kube-proxy")];

// === impl Releases ===

impl Releases {
    /// Builds the agent of a commit, if no test on this machine has done so before. Puts this build's executables into a
    /// folder with the given name.
    pub fn new(commit: &str, name: &str) -> Self {
        let clustermesh = crate::netns::binary();
        let built = clustermesh.parent().expect("a folder").to_owned();
        let folder = built.join("releases").join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("the target folder can be written to");
        // Hard links: each executable finds the others in its folder.
        for entry in fs::read_dir(&built).expect("a folder").flatten() {
            let name = entry.file_name();
            let is_ours =
                name.to_str().is_some_and(|n| n.starts_with("clustermesh") && !n.contains('.'));
            if is_ours && name != AGENT {
                fs::hard_link(entry.path(), folder.join(name)).expect("a hard link");
            }
        }
        let earlier = folder.join(format!("{AGENT}-{commit}"));
        wrap(&agent_of(commit), &earlier);
        let releases = Self { current: built.join(AGENT), earlier, folder };
        releases.use_current();
        releases
    }

    /// The CLI in the folder.
    pub fn clustermesh(&self) -> PathBuf {
        self.folder.join("clustermesh")
    }

    /// From now on, agents of this build are started.
    pub fn use_current(&self) {
        self.switch(&self.current);
    }

    /// From now on, agents of the earlier release are started.
    pub fn use_earlier(&self) {
        self.switch(&self.earlier);
    }

    fn switch(&self, to: &Path) {
        let (link, new) = (self.folder.join(AGENT), self.folder.join("new"));
        symlink(to, &new).and_then(|()| fs::rename(new, link)).expect("a link");
    }
}

impl Drop for Releases {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Writes a script that starts an agent with flags that it has.
fn wrap(agent: &Path, script: &Path) {
    let others = OTHER_FLAGS.map(|(flag, other)| format!("{flag}) kept+=({other}) ;;\n")).concat();
    let text = format!(
        "#!/bin/bash\nkept=()\nfor flag in \"$@\"; do case $flag in\n{others}*) kept+=(\"$flag\") ;;\nesac; done\n\
         exec {} \"${{kept[@]}}\"\n",
        agent.display()
    );
    fs::write(script, text).expect("a script");
    fs::set_permissions(script, fs::Permissions::from_mode(0o755)).expect("a script");
}

/// The agent of a commit. It is stored in the user's cache, which is removed less often than `target`.
fn agent_of(commit: &str) -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = cache.or_else(home).expect("XDG_CACHE_HOME or HOME is set");
    let folder = cache.join("clustermesh").join(commit);
    fs::create_dir_all(&folder).expect("the cache can be written to");
    // Other test programs may build it at the same time.
    let lock = File::create(folder.join("lock")).expect("the cache can be written to");
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| e).expect("a lock");
    let agent = folder.join(AGENT);
    if !agent.exists() {
        let built = build(commit, &folder);
        fs::copy(built, folder.join("new")).expect("the cache can be written to");
        fs::rename(folder.join("new"), &agent).expect("the cache can be written to");
        let _ = fs::remove_dir_all(folder.join("source"));
        let _ = fs::remove_dir_all(folder.join("target"));
    }
    agent
}

fn build(commit: &str, folder: &Path) -> PathBuf {
    let (source, target) = (folder.join("source"), folder.join("target"));
    let _ = fs::remove_dir_all(&source);
    fs::create_dir_all(&source).expect("the cache can be written to");
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut archive = Command::new("git");
    archive.arg("-C").arg(repository).args(["archive", commit]);
    let archive = archive.output().expect("git runs");
    let why = String::from_utf8_lossy(&archive.stderr);
    assert!(
        archive.status.success(),
        "this clone does not have the commit {commit}, see e2e/test.sh: {why}"
    );
    let mut tar = Command::new("tar");
    let tar = tar.arg("x").current_dir(&source).stdin(Stdio::piped()).spawn();
    let mut tar = tar.expect("tar runs");
    tar.stdin.take().expect("a pipe").write_all(&archive.stdout).expect("tar reads");
    assert!(tar.wait().expect("tar runs").success());
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--locked", "--quiet", "--package", AGENT]).current_dir(&source);
    // The environment variables of this package must not affect the other build.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    cargo.env("CARGO_TARGET_DIR", &target).env("CARGO_PROFILE_DEV_DEBUG", "0");
    assert!(cargo.status().expect("cargo runs").success(), "{commit} does not build");
    target.join("debug").join(AGENT)
}
