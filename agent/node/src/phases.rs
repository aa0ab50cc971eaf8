//! The phases of a connection to an etcd, as steps with what was reached or why not.

use mesh_admin::{
    plain,
    v1::{Step, StepState},
};
use mesh_follow::{ConnectionPhase, Failure, Status};
use mesh_model::ClusterName;

/// Whose etcd it is.
#[derive(Clone, Copy, Debug)]
pub enum Relation<'a> {
    /// Another cluster's.
    Peer(&'a ClusterName),
    /// The local cluster's, whose writer reports each second.
    Local,
    /// The same, and nothing has come of its writer for too long. An etcd that hangs keeps its connection, and what it
    /// listed is there: that the writer's reports are missing shows first.
    LocalWithoutWriter,
}

/// All phases but the data path. `detail`: what was reached in a phase.
pub fn phases(
    status: &Status,
    relation: Relation<'_>,
    detail: impl Fn(ConnectionPhase) -> String,
) -> Vec<Step> {
    let reached = status.reached();
    let step = |phase: ConnectionPhase| {
        let (state, detail) = match (&status.failure, relation) {
            (None, Relation::LocalWithoutWriter) if phase == ConnectionPhase::Synced => {
                (StepState::Failed, without_writer(status).into())
            }
            (Some(failure), _) if failure.phase == phase => {
                (StepState::Failed, reason(failure, relation))
            }
            _ if Some(phase) <= reached => (StepState::Ok, detail(phase)),
            _ => (StepState::Pending, String::new()),
        };
        Step { name: phase.as_str().into(), state: state.into(), detail }
    };
    let all = ConnectionPhase::ALL.into_iter();
    all.filter(|phase| *phase != ConnectionPhase::DataPath).map(step).collect()
}

fn without_writer(status: &Status) -> &'static str {
    match status.local_beats {
        0 => {
            "the local apiserver has not reported since this agent started: it, or this etcd, hangs or does not run"
        }
        _ => {
            "the local apiserver's reports no longer arrive: it, or this etcd, hangs or does not run"
        }
    }
}

fn reason(failure: &Failure, relation: Relation<'_>) -> String {
    let reason = plain(&failure.reason);
    match relation {
        Relation::Peer(name) if failure.phase == ConnectionPhase::Authenticated => {
            format!("waiting for {name} to accept this cluster: {reason}")
        }
        _ => reason.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use mesh_model::{ClusterConfig, RecordKind};

    use super::*;

    /// Of a cluster of which all was listed, over a connection that still seems to be there.
    fn listed(local_beats: u64) -> Status {
        Status {
            connected: true,
            etcd_cluster_id: Some(7),
            config: Some(ClusterConfig::default()),
            kinds: vec![(RecordKind::Node, true)],
            local_beats,
            ..Status::default()
        }
    }

    /// The first phase that is not in order, with why.
    fn broken(status: &Status, relation: Relation<'_>) -> Option<(String, String)> {
        let steps = phases(status, relation, |_| String::new());
        let first = steps.into_iter().find(|step| step.state() != StepState::Ok)?;
        assert_eq!(first.state(), StepState::Failed);
        Some((first.name, first.detail))
    }

    #[test]
    fn an_etcd_that_hangs_is_not_synced_also_where_the_writer_never_reported() {
        for (beats, says) in
            [(0, "has not reported since this agent started"), (3, "no longer arrive")]
        {
            let status = listed(beats);
            assert_eq!(broken(&status, Relation::Local), None);
            let (phase, why) = broken(&status, Relation::LocalWithoutWriter).unwrap();
            assert!(phase == "synced" && why.contains(says), "{phase}: {why}");
        }
        // What the connection says comes first: it is nearer to the cause.
        let failure = Some(Failure::new(ConnectionPhase::Tcp, "nothing listens there"));
        let status = Status { failure, connected: false, ..listed(3) };
        let found = broken(&status, Relation::LocalWithoutWriter);
        assert_eq!(found, Some(("tcp".into(), "nothing listens there".into())));
    }

    #[test]
    fn a_peer_that_does_not_know_us_yet_is_waited_for() {
        let b = ClusterName::new("b").unwrap();
        let failure = Some(Failure::new(ConnectionPhase::Authenticated, "permission denied"));
        let status = Status { failure, ..listed(0) };
        let (phase, why) = broken(&status, Relation::Peer(&b)).unwrap();
        assert_eq!(
            (&*phase, &*why),
            ("authenticated", "waiting for b to accept this cluster: permission denied")
        );
        assert_eq!(broken(&status, Relation::Local).unwrap().1, "permission denied");
    }
}
