//! What the programs must know of this node: whether its services may be out of date.
//!
//! The local cluster's writer puts its position once a second. When none has come for five seconds, the known state of
//! the local services may be old: a connection to a service without a backend passes instead of being refused, and
//! where a kube-proxy runs, which may have newer state, connections to services that are not global pass to it.

use std::time::{Duration, Instant};

use crate::input::{KubeProxy, LocalState};

/// The state that the programs have, and why.
#[derive(Debug)]
pub(crate) struct LocalReadiness {
    kube_proxy: KubeProxy,
    beats: Beats,
    sent: Option<LocalState>,
}

/// When the local cluster's writer reported last that it lives.
#[derive(Clone, Copy, Debug)]
struct Beats {
    count: u64,
    last: Instant,
    /// One came in this run.
    any: bool,
}

/// Five beats are missing.
const AWAY: Duration = Duration::from_secs(5);

impl LocalReadiness {
    /// The writer has not reported yet. `found` is the state that the previous run gave to the programs: it holds until
    /// the writer reports, or was away for long enough.
    pub(crate) fn new(found: Option<LocalState>, now: Instant) -> Self {
        // A previous run that found the writer away is right until the writer reports.
        let away = found.is_some_and(|state| state.plain_passes);
        let last = if away { now.checked_sub(AWAY).unwrap_or(now) } else { now };
        let kube_proxy = if away { KubeProxy::Present } else { KubeProxy::Absent };
        Self { kube_proxy, beats: Beats { count: 0, last, any: false }, sent: found }
    }

    /// This many beats came over the present connection so far.
    pub(crate) fn beats(&mut self, count: u64, now: Instant) {
        if self.beats.count != count {
            // Another connection counts from the beginning, and has reported nothing by that.
            let grown = count > self.beats.count;
            let last = if grown { now } else { self.beats.last };
            self.beats = Beats { count, last, any: self.beats.any || grown };
        }
    }

    pub(crate) fn set_kube_proxy(&mut self, kube_proxy: KubeProxy) {
        self.kube_proxy = kube_proxy;
    }

    /// How long ago the writer last reported; or this began, if it has not.
    pub(crate) fn last_seen(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.beats.last)
    }

    /// Whether the writer has been away for too long.
    pub(crate) fn is_away(&self, now: Instant) -> bool {
        self.beats.away(now).is_some()
    }

    /// The state that the programs must get now, if that is new. `synced`: the local cluster's services are.
    pub(crate) fn update(&mut self, synced: bool, now: Instant) -> Option<LocalState> {
        let away = self.is_away(now);
        let state = LocalState {
            unsure: away || !synced,
            plain_passes: away && self.kube_proxy == KubeProxy::Present,
        };
        if self.sent == Some(state) {
            return None;
        }
        self.sent = Some(state);
        Some(state)
    }

    /// When the writer has been away for too long, if it has not yet.
    pub(crate) fn next_timeout(&self, now: Instant) -> Option<Instant> {
        (!self.is_away(now)).then(|| self.beats.last + AWAY)
    }

    /// A problem for an operator.
    pub(crate) fn problem(&self, now: Instant) -> Option<String> {
        let away = self.beats.away(now)?;
        let plain = match self.sent.is_some_and(|state| state.plain_passes) {
            true => ", and services that are not global are left to the kube-proxy",
            false => "",
        };
        let since = match self.beats.any {
            true => format!("has been stale for {} s", away.as_secs()),
            false => "has not reported since this agent started".into(),
        };
        Some(format!(
            "the local apiserver {since}: services stay programmed, and connections to services without backends pass \
             instead of being refused{plain}"
        ))
    }
}

impl Beats {
    /// For how long nothing came, if that is too long.
    fn away(&self, now: Instant) -> Option<Duration> {
        Some(now.saturating_duration_since(self.last)).filter(|away| *away >= AWAY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: LocalState = LocalState { unsure: false, plain_passes: false };
    const UNSYNCED: LocalState = LocalState { unsure: true, plain_passes: false };
    const LEFT: LocalState = LocalState { unsure: true, plain_passes: true };

    #[test]
    fn five_missing_beats_make_services_unsure_and_leave_plain_ones_to_a_kube_proxy() {
        let began = Instant::now();
        let at = |millis: u64| began + Duration::from_millis(millis);
        let mut local = LocalReadiness::new(None, began);
        assert_eq!(local.update(false, at(0)), Some(UNSYNCED));
        local.beats(1, at(500));
        assert_eq!(local.last_seen(at(1_700)), Duration::from_millis(1_200));
        assert_eq!(local.update(true, at(500)), Some(FRESH));
        assert_eq!(
            (local.update(true, at(5_499)), local.next_timeout(at(5_499))),
            (None, Some(at(5_500)))
        );
        assert_eq!(local.update(true, at(5_500)), Some(UNSYNCED), "no kube-proxy is known");
        assert_eq!(local.next_timeout(at(5_500)), None);
        local.set_kube_proxy(KubeProxy::Present);
        assert_eq!(local.update(true, at(5_600)), Some(LEFT));
        let problem = local.problem(at(9_000)).unwrap();
        assert!(problem.contains("has been stale for 8 s: "), "{problem}");
        assert!(problem.contains("left to the kube-proxy"), "{problem}");
        // Another connection counts from the beginning.
        local.beats(0, at(9_000));
        assert_eq!(local.update(true, at(9_000)), None);
        local.beats(1, at(9_100));
        assert_eq!(local.update(true, at(9_100)), Some(FRESH));
    }

    #[test]
    fn a_writer_that_never_reported_in_this_run_is_away_after_five_seconds_too() {
        let began = Instant::now();
        let mut local = LocalReadiness::new(None, began);
        local.update(true, began);
        let just_before = began + AWAY - Duration::from_millis(1);
        assert!(!local.is_away(just_before) && local.problem(just_before).is_none());
        assert!(local.is_away(began + AWAY));
        let problem = local.problem(began + AWAY).unwrap();
        assert!(problem.contains("has not reported since this agent started: "), "{problem}");
        assert_eq!(local.update(true, began + AWAY), Some(UNSYNCED));
    }

    #[test]
    fn a_restart_does_not_take_plain_services_back_before_the_writer_reports() {
        let began = Instant::now();
        let mut local = LocalReadiness::new(Some(LEFT), began);
        assert_eq!(local.update(false, began), None, "it stays as the previous run left it");
        assert_eq!(local.update(false, began + AWAY), None);
        local.beats(1, began + AWAY);
        assert_eq!(local.update(true, began + AWAY), Some(FRESH));
        // What was in order is so for five seconds more.
        let mut local = LocalReadiness::new(Some(FRESH), began);
        assert_eq!(local.update(true, began), None);
        assert_eq!(local.update(true, began + AWAY), Some(UNSYNCED));
    }
}
