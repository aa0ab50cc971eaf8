//! Cgroups below the root with processes that are not the agent's. Programs at a root that reaches none of them are
//! attached without an error, and have no effect: in a container, the cgroup2 at the usual place is the container's own.

use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
    process,
};

use crate::container::is_container;

/// Where processes are by which it is seen whether programs at the root have an effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForeignCgroups {
    /// A cgroup with a pod's process.
    pub pod: Option<PathBuf>,
    /// A cgroup with another process of the node: the container runtime's, the kubelet's.
    pub node: Option<PathBuf>,
}

/// Why programs at a cgroup would have no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEffect {
    /// No process but the agent's own is there.
    #[error(
        "in {} and below it there are only the agent's own processes: programs there would balance no pod. {}",
        root.display(), REMEDY
    )]
    OnlyOurs {
        /// The cgroup.
        root: PathBuf,
    },
    /// In a container, it must be above the pods' cgroups.
    #[error("below {} there is no cgroup of a pod: it is not the node's root. {}", root.display(), REMEDY)]
    NoPod {
        /// The cgroup.
        root: PathBuf,
    },
    /// In a container, it must be above the container runtime's cgroup.
    #[error(
        "below {} there are only cgroups of pods, and none of the container runtime or the kubelet: it is not the node's root. {}",
        root.display(), REMEDY
    )]
    NoNode {
        /// The cgroup.
        root: PathBuf,
    },
    /// It cannot be read.
    #[error("{}: {reason}", path.display())]
    Unreadable {
        /// The cgroup.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// What makes a root the node's in a container.
const REMEDY: &str = "In a container, mount the node's /sys/fs/cgroup, with what is mounted below it, at \
                      /host/sys/fs/cgroup, and start the agent with --cgroup-root=/host/sys/fs/cgroup";
/// The length of a pod's UID in the name of its cgroup, without the separators: 128 bits.
const UID_DIGITS: usize = 32;

/// What is looked for.
#[derive(Clone, Copy, Debug)]
struct Look {
    own: u32,
    /// Both kinds must be there.
    in_container: bool,
}

impl ForeignCgroups {
    /// Looks for them.
    ///
    /// # Errors
    /// Where programs at `root` would have no effect on the node's processes. On a host, a root without any process is
    /// fine: some may come.
    pub fn find(root: &Path) -> Result<Self, NoEffect> {
        Look { own: process::id(), in_container: is_container() }.at(root)
    }
}

impl Look {
    fn at(self, root: &Path) -> Result<ForeignCgroups, NoEffect> {
        let mut found = ForeignCgroups::default();
        let mut is_own = false;
        let mut folders = VecDeque::from([root.to_owned()]);
        while let Some(folder) = folders.pop_front() {
            // What is gone by now, or of threads only, has no process to be seen.
            let Ok(members) = self.members(&folder) else {
                if folder == root {
                    return Err(unreadable(root));
                }
                continue;
            };
            is_own |= folder == root && members.ours;
            if members.others && !members.ours {
                let kind = match is_pods(folder.strip_prefix(root).unwrap_or(&folder)) {
                    true => &mut found.pod,
                    false => &mut found.node,
                };
                kind.get_or_insert_with(|| folder.clone());
            }
            if found.pod.is_some() && found.node.is_some() {
                break;
            }
            folders.extend(below(&folder));
        }
        let root = || root.to_owned();
        match (&found.pod, &found.node) {
            (Some(_), Some(_)) => Ok(found),
            (None, None) if is_own && !is_machines(&root()) => {
                Err(NoEffect::OnlyOurs { root: root() })
            }
            _ if !self.in_container => Ok(found),
            (None, None) => Err(NoEffect::OnlyOurs { root: root() }),
            (None, Some(_)) => Err(NoEffect::NoPod { root: root() }),
            (Some(_), None) => Err(NoEffect::NoNode { root: root() }),
        }
    }

    fn members(self, folder: &Path) -> io::Result<Members> {
        let pids = fs::read_to_string(folder.join("cgroup.procs"))?;
        // A process of another process namespace is shown as 0.
        let ours = pids.lines().any(|pid| pid.parse() == Ok(self.own));
        Ok(Members { ours, others: pids.lines().any(|pid| pid.parse() != Ok(self.own)) })
    }
}

/// Which processes are in a cgroup.
struct Members {
    ours: bool,
    others: bool,
}

/// The cgroups in a cgroup that have processes in them or below.
fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let populated = folders.map(|entry| entry.path()).filter(|folder| {
        let events = fs::read_to_string(folder.join("cgroup.events")).unwrap_or_default();
        events.lines().any(|line| line == "populated 1")
    });
    let mut populated: Vec<PathBuf> = populated.collect();
    populated.sort();
    populated
}

/// Whether it is the machine's root, which has no such file: all processes are in it.
fn is_machines(root: &Path) -> bool {
    !root.join("cgroup.events").exists()
}

fn unreadable(root: &Path) -> NoEffect {
    let reason = fs::read(root.join("cgroup.procs")).err();
    let reason =
        reason.map_or_else(|| "it was gone for a moment".into(), |error| error.to_string());
    NoEffect::Unreadable { path: root.into(), reason }
}

/// Whether a cgroup is a pod's, by the names that kubelets give: `kubepods` above all pods, and `pod` with the UID for each,
/// by systemd or by the kubelet itself.
fn is_pods(path: &Path) -> bool {
    let mut names = path.iter().map(|name| name.to_string_lossy());
    names.any(|name| name.contains("kubepods") || has_pod_uid(&name))
}

fn has_pod_uid(name: &str) -> bool {
    let after = |(at, word): (usize, &str)| name.get(at + word.len()..).unwrap_or_default();
    name.match_indices("pod").map(after).any(|rest| {
        let id = rest.chars().take_while(|c| c.is_ascii_hexdigit() || matches!(c, '-' | '_'));
        id.filter(char::is_ascii_hexdigit).count() >= UID_DIGITS
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 500;
    const POD: &str =
        "kubepods.slice/kubepods-pod33a2c663_c00a_4a97_90f2_b0b00e15e3ea.slice/cri-1.scope";
    const RUNTIME: &str = "system.slice/containerd.service";

    /// A folder like a cgroup that is not the machine's root, with these processes.
    fn root(cgroups: &[(&str, &[u32])]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let make = |folder: &Path, populated: bool| {
            fs::create_dir_all(folder).unwrap();
            let events = format!("populated {}\nfrozen 0\n", u8::from(populated));
            fs::write(folder.join("cgroup.events"), events).unwrap();
            if !folder.join("cgroup.procs").exists() {
                fs::write(folder.join("cgroup.procs"), "").unwrap();
            }
        };
        make(root.path(), true);
        for (path, pids) in cgroups {
            let mut folder = root.path().to_owned();
            for name in Path::new(path) {
                folder.push(name);
                make(&folder, !pids.is_empty());
            }
            let list: String = pids.iter().map(|pid| format!("{pid}\n")).collect();
            fs::write(folder.join("cgroup.procs"), list).unwrap();
        }
        root
    }

    fn look(cgroups: &[(&str, &[u32])], in_container: bool) -> Result<ForeignCgroups, NoEffect> {
        let root = root(cgroups);
        let found = Look { own: OWN, in_container }.at(root.path());
        let shown = |path: PathBuf| path.strip_prefix(root.path()).unwrap().to_owned();
        found.map(|ForeignCgroups { pod, node }| ForeignCgroups {
            pod: pod.map(shown),
            node: node.map(shown),
        })
    }

    #[test]
    fn a_container_needs_a_root_above_pods_and_the_runtime() {
        let all = [(POD, &[0][..]), (RUNTIME, &[0, 0]), ("agent.scope", &[OWN])];
        let both = ForeignCgroups { pod: Some(POD.into()), node: Some(RUNTIME.into()) };
        assert_eq!(look(&all, true), Ok(both.clone()));
        assert_eq!(look(&all, false), Ok(both));
        assert!(matches!(look(&all[1..], true), Err(NoEffect::NoPod { .. })));
        assert!(matches!(look(&[all[0], all[2]], true), Err(NoEffect::NoNode { .. })));
        for ours in [&all[2..], &[("", &[OWN][..])], &[]] {
            let none = look(ours, true).unwrap_err();
            assert!(matches!(none, NoEffect::OnlyOurs { .. }), "{none}");
            let text = none.to_string();
            assert!(text.contains("mount the node's /sys/fs/cgroup,"), "{text}");
            assert!(text.contains("--cgroup-root=/host/sys/fs/cgroup"), "{text}");
        }
    }

    #[test]
    fn a_namespace_of_its_own_is_seen_on_a_host_too() {
        // Beside others that are in the same cgroup: programs there reach nothing else.
        for members in [&[OWN][..], &[OWN, 7]] {
            let none = look(&[("", members)], false);
            assert!(matches!(none, Err(NoEffect::OnlyOurs { .. })), "{none:?}");
        }
        assert_eq!(look(&[("agent", &[OWN])], false), Ok(ForeignCgroups::default()));
        let found = look(&[("", &[OWN, 7]), (RUNTIME, &[8])], false).unwrap();
        assert_eq!(found.node, Some(RUNTIME.into()));
    }

    #[test]
    fn cgroups_without_processes_show_nothing() {
        let none = look(&[(POD, &[]), (RUNTIME, &[])], true);
        assert!(matches!(none, Err(NoEffect::OnlyOurs { .. })), "{none:?}");
        let gone = Look { own: OWN, in_container: false }.at(Path::new("/nowhere"));
        assert!(matches!(gone, Err(NoEffect::Unreadable { .. })), "{gone:?}");
    }

    #[test]
    fn pods_are_known_by_the_names_of_both_cgroup_drivers() {
        for pod in [
            "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/x.scope",
            "kubepods/burstable/x/1234",
            "pod33a2c663-c00a-4a97-90f2-b0b00e15e3ea/1234",
            "kubelet-pod1a363d8c82e19ab733d57b5413e037eb.slice",
        ] {
            assert!(is_pods(Path::new(pod)), "{pod}");
        }
        for other in [RUNTIME, "", "user.slice", "podman.service", "machine.slice/pod-a.scope"] {
            assert!(!is_pods(Path::new(other)), "{other}");
        }
    }
}
