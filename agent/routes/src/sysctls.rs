//! Settings of the node's kernel without which packets of the mesh are dropped.

use std::{fmt, fs, path::Path};

use crate::interfaces::Interface;

/// A setting that is in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SysctlProblem {
    /// Its name, as `sysctl` takes it.
    pub name: String,
    /// The present value.
    pub value: String,
    /// The right value.
    pub wanted: &'static str,
    /// Its effect.
    pub effect: SysctlEffect,
}

/// The effect of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SysctlEffect {
    /// This node passes no packet between its pods and other nodes.
    NothingIsForwarded,
    /// Packets of other clusters' pods are dropped where they arrive by another interface than the answer would leave by.
    OtherWaysAreDropped,
}

/// Strict; 2 is loose, 0 off.
const STRICT: &str = "1";

// === impl SysctlProblem ===

impl SysctlProblem {
    /// The command that mends it.
    pub fn remedy(&self) -> String {
        format!("sysctl -w {}={}", self.name, self.wanted)
    }
}

/// What is wrong, and its effect.
impl fmt::Display for SysctlProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value, effect, .. } = self;
        let effect = match effect {
            SysctlEffect::NothingIsForwarded => {
                "this node passes no packet between its pods and other nodes"
            }
            SysctlEffect::OtherWaysAreDropped => {
                "packets of other clusters' pods are dropped where they arrive by another interface than the answer \
                 leaves by"
            }
        };
        write!(f, "{name} is {value}: {effect}")
    }
}

/// Checks the settings that the mesh needs, below `proc` (`/proc`), in the network namespace of this thread. `uplinks`
/// are the interfaces that carry the node's addresses. A setting that cannot be read, such as IPv6's where there is
/// none, is no problem.
pub fn sysctl_problems<'a>(
    proc: &Path,
    uplinks: impl Iterator<Item = &'a Interface>,
) -> Vec<SysctlProblem> {
    // A name has dots for slashes, and the other way round: an interface may have a dot in its name.
    let read = |name: &str| {
        let swapped = name.chars().map(|c| match c {
            '.' => '/',
            '/' => '.',
            other => other,
        });
        let path = proc.join("sys").join(swapped.collect::<String>());
        fs::read_to_string(path).ok().map(|value| value.trim().to_owned())
    };
    let mut problems = Vec::new();
    for name in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
        if let Some(value) = read(name).filter(|value| value == "0") {
            let effect = SysctlEffect::NothingIsForwarded;
            problems.push(SysctlProblem { name: name.into(), value, wanted: "1", effect });
        }
    }
    // The larger of the two counts.
    let all = read("net.ipv4.conf.all.rp_filter").unwrap_or_default();
    for uplink in uplinks {
        let name = format!("net.ipv4.conf.{}.rp_filter", uplink.name.replace('.', "/"));
        let Some(value) = read(&name) else { continue };
        if all.as_str().max(value.as_str()) == STRICT {
            let effect = SysctlEffect::OtherWaysAreDropped;
            problems.push(SysctlProblem { name, value: STRICT.into(), wanted: "2", effect });
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::interfaces::InterfaceKind;

    fn uplink(name: &str) -> Interface {
        Interface {
            index: 2,
            name: name.into(),
            kind: InterfaceKind::Ethernet { driver: None },
            is_up: true,
            mac: vec![2; 6],
            master: None,
            addresses: BTreeSet::new(),
        }
    }

    #[test]
    fn each_setting_is_named_with_the_command_that_mends_it() {
        let proc = tempfile::tempdir().unwrap();
        let set = |path: &str, value: &str| {
            let path = proc.path().join("sys/net").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{value}\n")).unwrap();
        };
        let uplinks = [uplink("eth0"), uplink("bond0.100")];
        let problems = || {
            let problems = sysctl_problems(proc.path(), uplinks.iter());
            let shown = |problem: &SysctlProblem| format!("{problem} → {}", problem.remedy());
            problems.iter().map(shown).collect::<Vec<String>>()
        };
        set("ipv4/ip_forward", "1");
        set("ipv4/conf/all/rp_filter", "0");
        set("ipv4/conf/eth0/rp_filter", "2");
        set("ipv4/conf/bond0.100/rp_filter", "0");
        assert!(problems().is_empty(), "{:?}", problems());
        set("ipv4/ip_forward", "0");
        set("ipv6/conf/all/forwarding", "0");
        // The larger one counts: eth0 is loose all the same.
        set("ipv4/conf/all/rp_filter", "1");
        assert_eq!(
            problems(),
            [
                "net.ipv4.ip_forward is 0: this node passes no packet between its pods and other nodes → sysctl -w \
                 net.ipv4.ip_forward=1",
                "net.ipv6.conf.all.forwarding is 0: this node passes no packet between its pods and other nodes → \
                 sysctl -w net.ipv6.conf.all.forwarding=1",
                "net.ipv4.conf.bond0/100.rp_filter is 1: packets of other clusters' pods are dropped where they arrive \
                 by another interface than the answer leaves by → sysctl -w net.ipv4.conf.bond0/100.rp_filter=2",
            ]
        );
    }
}
