//! What the programs must know of this node: how sure its services are.
//!
//! The own cluster's writer puts how far it is once a second. When nothing of it has come for five seconds, what is known
//! of the own services may be old: a service without a backend passes instead of being refused, and where a kube-proxy
//! runs, which may know better, services that are not global pass to it.

use std::time::{Duration, Instant};

use mesh_layout::{OWN_PLAIN_PASSES, OWN_UNSURE};
use mesh_routes::has_kube_proxy;

use super::Mesh;
use crate::args::KubeProxy;

/// What the programs were told, and why.
#[derive(Debug)]
pub(crate) struct LocalReadiness {
    kube_proxy: KubeProxy,
    /// The last look for one, if that was needed.
    looked: Option<(Instant, bool)>,
    beats: Beats,
    told: Option<u32>,
}

/// When the own cluster's writer was heard last.
#[derive(Clone, Copy, Debug)]
struct Beats {
    count: u64,
    heard: Instant,
}

/// Five beats are missing.
const SILENCE: Duration = Duration::from_secs(5);
/// How often it is looked for a kube-proxy while it matters.
const LOOK: Duration = Duration::from_secs(30);

impl LocalReadiness {
    /// Nothing was heard, and nothing is told.
    pub(crate) fn new(kube_proxy: KubeProxy, now: Instant) -> Self {
        Self { kube_proxy, looked: None, beats: Beats { count: 0, heard: now }, told: None }
    }

    /// What an operator should look at.
    pub(crate) fn problem(&self, now: Instant) -> Option<String> {
        let silent = self.beats.silent(now)?;
        let plain = match self.told.is_some_and(|bits| bits & OWN_PLAIN_PASSES != 0) {
            true => ", and services that are not global are left to the kube-proxy",
            false => "",
        };
        Some(format!(
            "the own cluster's apiserver has said nothing for {} s: its services stay as they are, those without a backend are not refused{plain}",
            silent.as_secs()
        ))
    }

    async fn has_kube_proxy(&mut self, now: Instant) -> bool {
        match (self.kube_proxy, self.looked) {
            (KubeProxy::Present, _) => true,
            (KubeProxy::Absent, _) => false,
            (KubeProxy::Auto, Some((at, found))) if now.saturating_duration_since(at) < LOOK => {
                found
            }
            (KubeProxy::Auto, _) => {
                let found = has_kube_proxy().await;
                self.looked = Some((now, found));
                found
            }
        }
    }
}

impl Beats {
    /// So many beats came in all by now.
    fn count(&mut self, count: u64, now: Instant) {
        if self.count != count {
            *self = Self { count, heard: now };
        }
    }

    /// For how long nothing was heard, if that is too long.
    fn silent(&self, now: Instant) -> Option<Duration> {
        Some(now.saturating_duration_since(self.heard)).filter(|silent| *silent >= SILENCE)
    }
}

impl Mesh {
    /// Tells the programs how sure the own services are, where that is otherwise than before: by one write.
    pub(super) async fn tell_own_state(&mut self, now: Instant) {
        let beats = self.status(&self.own).own_beats;
        self.local_readiness.beats.count(beats, now);
        let silent = self.local_readiness.beats.silent(now).is_some();
        let mut bits = 0;
        if silent || !self.merge.has_told_services(&self.own) {
            bits |= OWN_UNSURE;
        }
        if silent && self.local_readiness.has_kube_proxy(now).await {
            bits |= OWN_PLAIN_PASSES;
        }
        if self.local_readiness.told != Some(bits) {
            self.local_readiness.told = Some(bits);
            self.tables.set_own_state(bits);
            if silent {
                tracing::warn!("the own cluster's apiserver is silent: its services are not sure");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_missing_beats_are_silence() {
        let began = Instant::now();
        let at = |millis: u64| began + Duration::from_millis(millis);
        let mut beats = Beats { count: 0, heard: began };
        assert_eq!(beats.silent(at(4_999)), None);
        assert_eq!(beats.silent(at(5_000)), Some(Duration::from_secs(5)), "nor was it ever heard");
        beats.count(1, at(5_500));
        beats.count(1, at(9_000));
        assert_eq!(beats.silent(at(10_499)), None);
        assert_eq!(beats.silent(at(10_500)), Some(Duration::from_secs(5)));
        // Another connection counts from the beginning.
        beats.count(0, at(11_000));
        assert_eq!(beats.silent(at(11_000)), None);
    }
}
