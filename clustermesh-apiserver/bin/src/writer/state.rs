//! The state of the etcd for readiness and status.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use mesh_admin::{ProblemCode, v1::Problem};

use super::{
    etcd_capacity::Fill,
    etcd_error::{EtcdFailure, Reason},
};

/// The state of the etcd.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoreState {
    pub(crate) connected: bool,
    /// Whether the source is complete, and everything was written.
    pub(crate) synced: bool,
    /// Why the etcd cannot be written to.
    pub(crate) trouble: Option<EtcdFailure>,
    /// An answer that takes long, as a message.
    pub(crate) slow: Option<String>,
    /// An unknown user with a role that the last check found.
    pub(crate) unknown_user: Option<String>,
    /// What is wrong with the credentials' files. The previous ones are in use.
    pub(crate) files: Option<String>,
    /// What is wrong with `users.yaml`. The previous content is in force.
    pub(crate) users_file: Option<String>,
    /// What a pod's apiserver cannot keep in order.
    pub(crate) installation: Option<String>,
    pub(crate) written: usize,
    /// Keys whose value the etcd does not accept.
    pub(crate) refused: BTreeMap<String, Refused>,
    /// How full the etcd is.
    pub(crate) fill: Option<Fill>,
    /// Why its version is not safe with untrusted peers.
    pub(crate) unfit: Option<String>,
    /// Messages about writes of other programs.
    pub(crate) others: Vec<String>,
    /// Repairs, as messages, with their last time.
    notices: BTreeMap<(Reason, String), Instant>,
}

/// A value that the etcd does not accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The object from which it was made.
    pub(crate) object: Option<String>,
    pub(crate) bytes: usize,
    pub(crate) reason: String,
}

/// How long a repair is reported.
const NEWS: Duration = Duration::from_secs(600);
/// The maximum number of reported repairs.
const NOTICES: usize = 20;
/// How many keys the status lists.
const LISTED: usize = 10;

impl StoreState {
    /// What prevents readiness, as a message.
    pub(crate) fn unready(&self) -> Option<String> {
        if let Some(trouble) = &self.trouble {
            return Some(format!("etcd: {trouble}"));
        }
        if let Some(slow) = &self.slow {
            return Some(format!("etcd: {}: {slow}", Reason::Slow.as_str()));
        }
        if let Some(user) = &self.unknown_user {
            return Some(format!("etcd: {}: unknown user {user}", Reason::Users.as_str()));
        }
        (!self.synced).then(|| "etcd: not everything is written yet".into())
    }

    /// Problems that do not prevent readiness.
    pub(crate) fn problems(&self, now: Instant) -> Vec<Problem> {
        let refused = self.refused.iter().take(LISTED).map(|(key, refused)| {
            let Refused { object, bytes, reason } = refused;
            let name = object.as_ref().map(|object| format!("{object}: ")).unwrap_or_default();
            let message = format!("{name}the etcd does not accept {key}, {bytes} bytes: {reason}");
            ProblemCode::RefusedKey.problem(message).about(object.clone().unwrap_or_default())
        });
        let more = self.refused.len().saturating_sub(LISTED);
        let more = (more > 0).then(|| {
            ProblemCode::RefusedKey.problem(format!("the etcd does not accept {more} more keys"))
        });
        let recent = |at: &Instant| now.saturating_duration_since(*at) < NEWS;
        let notices = self.notices.iter().filter(|(_, at)| recent(at));
        let notices = notices
            .map(|((_, text), _)| ProblemCode::EtcdRepaired.problem(format!("etcd: {text}")));
        let users = self.users_file.iter().map(|why| ProblemCode::UsersFile.problem(why));
        let others = self.others.iter().map(|other| ProblemCode::ForeignWriter.problem(other));
        let capacity = self.unfit.iter().cloned().chain(self.fill.iter().flat_map(Fill::problems));
        let capacity = capacity.map(|why| ProblemCode::EtcdCapacity.problem(why));
        let installation =
            self.installation.iter().map(|why| ProblemCode::Installation.problem(why));
        let users = users.chain(capacity).chain(installation);
        users.chain(refused).chain(more).chain(notices).chain(others).collect()
    }

    /// Stores a repair.
    pub(crate) fn notice(&mut self, reason: Reason, text: String, now: Instant) {
        self.notices.retain(|_, at| now.saturating_duration_since(*at) < NEWS);
        while self.notices.len() >= NOTICES {
            self.notices.pop_first();
        }
        self.notices.insert((reason, text), now);
    }

    /// The reasons why the etcd cannot be written to now.
    pub(crate) fn reasons(&self) -> BTreeSet<Reason> {
        let slow = self.slow.iter().map(|_| Reason::Slow);
        self.trouble.iter().map(|trouble| trouble.reason).chain(slow).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_reported_in_order_of_importance() {
        let mut state = StoreState { synced: true, ..StoreState::default() };
        assert_eq!(state.unready(), None);
        state.unknown_user = Some("ghost with role root".into());
        assert_eq!(state.unready().unwrap(), "etcd: users: unknown user ghost with role root");
        state.slow = Some("no answer to a write within 2s".into());
        assert_eq!(state.unready().unwrap(), "etcd: slow: no answer to a write within 2s");
        state.trouble = Some(EtcdFailure::new(Reason::Full, "NOSPACE"));
        assert_eq!(state.unready().unwrap(), "etcd: full: NOSPACE");
        assert_eq!(state.reasons(), [Reason::Slow, Reason::Full].into());
    }

    #[test]
    fn problems_are_bounded() {
        let (mut state, now) = (StoreState::default(), Instant::now());
        for n in 0..12 {
            let object = Some(format!("Service shop/web-{n}"));
            let refused = Refused { object, bytes: 1_600_000, reason: "too large".into() };
            state.refused.insert(format!("key-{n:02}"), refused);
        }
        for n in 0..NOTICES + 5 {
            state.notice(Reason::Users, format!("notice {n}"), now);
        }
        let problems = state.problems(now);
        assert_eq!(
            problems[0].message,
            "Service shop/web-0: the etcd does not accept key-00, 1600000 bytes: too large"
        );
        assert_eq!(problems[LISTED].message, "the etcd does not accept 2 more keys");
        assert_eq!(problems.len(), LISTED + 1 + NOTICES);
        assert_eq!(state.problems(now + NEWS).len(), LISTED + 1, "old repairs are not reported");
    }
}
