//! How the etcd is, for readiness and status.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use mesh_admin::{ProblemCode, v1::Problem};

use super::{
    etcd_capacity::Fill,
    etcd_error::{EtcdFailure, Reason},
};

/// How the etcd is.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoreState {
    pub(crate) connected: bool,
    /// Everything known was written, and the canaries say so.
    pub(crate) synced: bool,
    /// Why there is no connection that is of use.
    pub(crate) trouble: Option<EtcdFailure>,
    /// What an answer is waited for.
    pub(crate) slow: Option<String>,
    /// A user that was not asked for was there at the last look.
    pub(crate) unknown_user: Option<String>,
    /// What is wrong with the credentials' files, while those read before serve.
    pub(crate) files: Option<String>,
    /// What is wrong with `users.yaml`, while what was read before is in force.
    pub(crate) users_file: Option<String>,
    pub(crate) written: usize,
    /// Keys that the etcd does not take.
    pub(crate) refused: BTreeMap<String, Refused>,
    /// How full the etcd is.
    pub(crate) fill: Option<Fill>,
    /// Why its version is not fit for peers that are not trusted.
    pub(crate) unfit: Option<String>,
    /// What others did to keys of ours, in words.
    pub(crate) others: Vec<String>,
    /// What had to be put right, when, and in words.
    notices: BTreeMap<(Reason, String), Instant>,
}

/// A value that the etcd does not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The object that it follows from.
    pub(crate) object: Option<String>,
    pub(crate) bytes: usize,
    pub(crate) reason: String,
}

/// What was put right so long ago is no news.
const NEWS: Duration = Duration::from_secs(600);
/// No more notices than this.
const NOTICES: usize = 20;
/// Keys that a status lists.
const LISTED: usize = 10;

impl StoreState {
    /// What keeps it from being ready.
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

    /// What needs attention although it is ready.
    pub(crate) fn problems(&self, now: Instant) -> Vec<Problem> {
        let refused = self.refused.iter().take(LISTED).map(|(key, refused)| {
            let Refused { object, bytes, reason } = refused;
            let name = object.as_ref().map(|object| format!("{object}: ")).unwrap_or_default();
            let message = format!("{name}the etcd does not take {key}, {bytes} bytes: {reason}");
            ProblemCode::RefusedKey.problem(message).about(object.clone().unwrap_or_default())
        });
        let more = self.refused.len().saturating_sub(LISTED);
        let more = (more > 0).then(|| {
            ProblemCode::RefusedKey.problem(format!("the etcd does not take {more} more keys"))
        });
        let recent = |at: &Instant| now.saturating_duration_since(*at) < NEWS;
        let notices = self.notices.iter().filter(|(_, at)| recent(at));
        let notices = notices
            .map(|((_, text), _)| ProblemCode::EtcdRepaired.problem(format!("etcd: {text}")));
        let users = self.users_file.iter().map(|why| ProblemCode::UsersFile.problem(why));
        let others = self.others.iter().map(|other| ProblemCode::ForeignWriter.problem(other));
        let capacity = self.unfit.iter().cloned().chain(self.fill.iter().flat_map(Fill::problems));
        let capacity = capacity.map(|why| ProblemCode::EtcdCapacity.problem(why));
        let users = users.chain(capacity);
        users.chain(refused).chain(more).chain(notices).chain(others).collect()
    }

    /// Something was not as it should be, and is now.
    pub(crate) fn notice(&mut self, reason: Reason, text: String, now: Instant) {
        self.notices.retain(|_, at| now.saturating_duration_since(*at) < NEWS);
        while self.notices.len() >= NOTICES {
            self.notices.pop_first();
        }
        self.notices.insert((reason, text), now);
    }

    /// What keeps the etcd from being written to at this time.
    pub(crate) fn reasons(&self) -> BTreeSet<Reason> {
        let slow = self.slow.iter().map(|_| Reason::Slow);
        self.trouble.iter().map(|trouble| trouble.reason).chain(slow).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_reported_in_order() {
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
    fn problems_are_named_and_bounded() {
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
            "Service shop/web-0: the etcd does not take key-00, 1600000 bytes: too large"
        );
        assert_eq!(problems[LISTED].message, "the etcd does not take 2 more keys");
        assert_eq!(problems.len(), LISTED + 1 + NOTICES);
        assert_eq!(state.problems(now + NEWS).len(), LISTED + 1, "old news is none");
    }
}
