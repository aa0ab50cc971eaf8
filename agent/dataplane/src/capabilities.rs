//! The capabilities that the agent needs: without them nothing of it works, and each call would fail with an error of
//! its own.

use std::fs;

/// The capabilities that the agent cannot do without, each with its number (`capabilities(7)`): programs and tables, routes and
/// rules, and pods' namespaces. CAP_SYS_ADMIN has CAP_BPF in it.
const NEEDED: [(&str, u32); 2] = [("CAP_SYS_ADMIN", 21), ("CAP_NET_ADMIN", 12)];

/// The capabilities that this process lacks to be an agent, as a sentence with what to do; `None` if it lacks none, or
/// does not know.
pub fn missing_capabilities() -> Option<String> {
    missing(&fs::read_to_string("/proc/self/status").ok()?)
}

/// The same from the content of `/proc/PID/status`.
fn missing(status: &str) -> Option<String> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let effective = u64::from_str_radix(line.trim(), 16).ok()?;
    let missing: Vec<&str> = NEEDED
        .into_iter()
        .filter(|(_, number)| effective & (1 << number) == 0)
        .map(|(name, _)| name)
        .collect();
    (!missing.is_empty()).then(|| {
        format!(
            "the agent needs root, or the capabilities CAP_NET_ADMIN and CAP_SYS_ADMIN (with CAP_BPF in it); it lacks {}",
            missing.join(" and ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_in_a_sentence() {
        let status =
            |capabilities: u64| format!("Name:\tx\nCapEff:\t{capabilities:016x}\nCapBnd:\t0\n");
        let (net, sys) = (1 << 12, 1 << 21);
        assert_eq!(missing(&status(net | sys)), None);
        for (has, lacks) in [
            (0, "it lacks CAP_SYS_ADMIN and CAP_NET_ADMIN"),
            (net, "it lacks CAP_SYS_ADMIN"),
            (sys, "it lacks CAP_NET_ADMIN"),
        ] {
            let says = missing(&status(has)).unwrap();
            assert!(
                says.starts_with("the agent needs root, or") && says.ends_with(lacks),
                "{says}"
            );
        }
        assert_eq!(missing("Name:\tx\n"), None);
    }
}
