//! What needs rights: the agent's own programs are loaded and attached, as it would do it.

use mesh_dataplane::{
    KernelTrial, ProbeAnswerError, kernel_release, missing_capabilities, try_kernel,
};

use super::{Check, Row};

/// What is needed of the kernel itself.
const NEEDED: &str = "run Linux 5.19 or newer with CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF and CONFIG_DEBUG_INFO_BTF; in a \
                      container, start the agent privileged, with the host's cgroup2 writable";

pub(super) fn rows() -> Vec<Row> {
    if let Some(lacks) = missing_capabilities() {
        let all = [Check::Kernel, Check::SocketList, Check::ProbeAnswer];
        let not_tried = all.map(|check| Row::warning(check, "not tried", "run this as root"));
        let first = Row::failed(Check::Capabilities, lacks, "run this, and the agent, as root");
        return [vec![first], not_tried.to_vec()].concat();
    }
    let mut rows = vec![Row::ok(Check::Capabilities, "CAP_NET_ADMIN and CAP_SYS_ADMIN")];
    match try_kernel() {
        Ok(trial) => rows.extend(of_trial(&trial, &kernel_release())),
        Err(error) => rows.push(Row::failed(Check::Kernel, error.to_string(), NEEDED)),
    }
    rows
}

fn of_trial(trial: &KernelTrial, release: &str) -> Vec<Row> {
    let KernelTrial { programs, socket_list, probe_answer } = trial;
    let mut rows = vec![match programs {
        Ok(()) => {
            let found =
                format!("Linux {release}: the socket programs load, and attach to a cgroup");
            Row::ok(Check::Kernel, found)
        }
        Err(error) => Row::failed(Check::Kernel, format!("Linux {release}: {error}"), NEEDED),
    }];
    rows.push(match socket_list {
        Some(Ok(())) => Row::ok(Check::SocketList, "sockets are listed with their backends (BTF)"),
        Some(Err(error)) => Row::warning(
            Check::SocketList,
            format!("sockets to removed backends cannot be found: {error}"),
            "run a kernel with CONFIG_DEBUG_INFO_BTF; until then such sockets end by their own timeouts",
        ),
        None => Row::warning(Check::SocketList, "not tried: the programs do not load", "see `kernel`"),
    });
    rows.push(match probe_answer {
        Ok(()) => Row::ok(Check::ProbeAnswer, "the kernel can answer probes (TCX)"),
        Err(error @ ProbeAnswerError::NoTcx) => Row::warning(
            Check::ProbeAnswer,
            error.to_string(),
            "run Linux 6.6 or newer; until then other nodes take this one for dead while its agent does not run",
        ),
        Err(error) => Row::warning(
            Check::ProbeAnswer,
            format!("the kernel cannot answer probes, the agent does: {error}"),
            NEEDED,
        ),
    });
    rows
}

#[cfg(test)]
mod tests {
    use mesh_dataplane::{ProgramsError, TrialError};

    use super::*;
    use crate::check::Level;

    #[test]
    fn what_a_kernel_lacks_is_named_with_what_follows_from_it() {
        let levels = |trial: &KernelTrial| {
            of_trial(trial, "6.1.0").iter().map(|row| row.level).collect::<Vec<Level>>()
        };
        let fit =
            || KernelTrial { programs: Ok(()), socket_list: Some(Ok(())), probe_answer: Ok(()) };
        assert_eq!(levels(&fit()), [Level::Ok; 3]);
        let no_tcx = KernelTrial { probe_answer: Err(ProbeAnswerError::NoTcx), ..fit() };
        assert_eq!(levels(&no_tcx), [Level::Ok, Level::Ok, Level::Warning]);
        let missing = || ProgramsError::Missing("cm_list_tcp");
        let no_btf = KernelTrial { socket_list: Some(Err(missing())), ..fit() };
        assert_eq!(levels(&no_btf), [Level::Ok, Level::Warning, Level::Ok]);
        let refused = KernelTrial {
            programs: Err(TrialError::Programs(missing())),
            socket_list: None,
            probe_answer: Err(ProbeAnswerError::Programs(missing())),
        };
        assert_eq!(levels(&refused), [Level::Failed, Level::Warning, Level::Warning]);
        let rows = of_trial(&refused, "6.1.0");
        assert!(rows.iter().all(|row| !row.remedy.is_empty()), "{rows:#?}");
        assert!(rows[0].found.starts_with("Linux 6.1.0: "), "{}", rows[0].found);
    }
}
