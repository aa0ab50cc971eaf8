//! In which form a cluster's services are followed, and how it changes.
//!
//! A cluster's config shows how it exports services, and may change. Whatever it changes to, the new form is listed and
//! confirmed before records of the old one are removed.

use mesh_model::{ClusterConfig, ExportMode, RecordEvent, RecordKind};

use super::{PeerEvent, PeerFollower, Role, ranges::CONFIG, service_format::ServiceFormat};
use crate::machine::Machine as _;

/// A change from one form to another: the new one is complete, the old one is not followed any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Migration {
    to: ServiceFormat,
    /// All that came in the old one came by this revision.
    since: i64,
}

// === impl PeerFollower ===

impl PeerFollower {
    /// Whether the local prefix is followed: our apiserver wrote the config or the canary, now or earlier. An etcd of
    /// ours that is filled again must not be taken for a Cilium's while the canary is missing.
    pub(super) fn is_local(&self, config: &ClusterConfig) -> bool {
        let ours = config.uuid.is_some() || self.completeness.has_local();
        self.config.role == Role::Local && (ours || self.services_in == Some(ServiceFormat::Local))
    }

    /// The form that is wanted of a cluster. An apiserver of ours that exports no slices is an older one: it has no services
    /// in the local prefix either.
    fn form(&self, config: &ClusterConfig) -> ServiceFormat {
        match &config.export_mode {
            _ if self.services_in == Some(ServiceFormat::Local) => ServiceFormat::Local,
            ExportMode::Services => ServiceFormat::Services,
            _ if self.is_local(config) => ServiceFormat::Local,
            // A Cilium's.
            _ if self.config.role == Role::Local => ServiceFormat::Services,
            ExportMode::ServicesAndEndpointSlices | ExportMode::EndpointSlicesOnly => {
                ServiceFormat::Slices
            }
            // Refused before.
            ExportMode::Unknown(_) => ServiceFormat::Services,
        }
    }

    /// The forms to follow: the wanted one, and until that is complete the one before it, if the cluster keeps that. If
    /// it does not keep it, the known records stay as they are meanwhile.
    pub(super) fn forms(&self, config: &ClusterConfig) -> Vec<ServiceFormat> {
        let wanted = self.form(config);
        let kept =
            |form: &ServiceFormat| *form != wanted && form.is_in(config) && self.moving.is_none();
        self.services_in.filter(kept).into_iter().chain([wanted]).collect()
    }

    /// The config changed, as of a revision. If with it an apiserver of ours begins to export services in the local
    /// prefix, the existing canary may be its predecessor's: only one that is put after that confirms them.
    pub(super) fn changed_form(&mut self, revision: i64) {
        let Some(config) = &self.accepted else { return };
        let form = self.form(config);
        if self.services_in == Some(ServiceFormat::Services) && form == ServiceFormat::Local {
            self.completeness.wait_for_canary(ServiceFormat::Local.kinds(), revision);
        }
    }

    /// The config changed: if it wants another form than the one in progress, there is nothing to finish.
    pub(super) fn stop_moving(&mut self) {
        let form = self.accepted.as_ref().map(|config| self.form(config));
        self.moving = self.moving.filter(|moving| Some(moving.to) == form);
    }

    /// Revisions of another history follow.
    pub(super) fn moves_in_new_history(&mut self) {
        self.config_at = 0;
        if let Some(moving) = &mut self.moving {
            moving.since = 0;
        }
    }

    /// These kinds are confirmed. If a new form of the services is complete with that, the old one is no longer
    /// followed. But watches have no common order: the last changes of the old form may not have arrived in the new one
    /// yet, nor a config that reverts the change. So both are listed once more before anything is removed.
    pub(super) fn services_confirmed(&mut self, kinds: &[RecordKind]) {
        let Some(form) = self.accepted.as_ref().map(|config| self.form(config)) else { return };
        if !form.kinds().iter().any(|kind| kinds.contains(kind)) || !self.is_complete(form) {
            return;
        }
        if self.services_in.is_some_and(|known| known != form) && self.moving.is_none() {
            self.moving = Some(Migration { to: form, since: self.follower.status().revision });
            self.follow();
            self.follower.relist(CONFIG);
            self.list_again();
        }
        self.move_on();
    }

    /// Lists the form that is being moved to: once, and where the connection broke meanwhile on the next one.
    pub(super) fn list_again(&mut self) {
        let Some(moving) = self.moving else { return };
        let again = self.completeness.ranges_of(moving.to.kinds());
        again.into_iter().for_each(|range| self.follower.relist(range));
    }

    /// Drops all other forms, if there is nothing more to wait for: those that this follower reported, and those that one
    /// before it may have reported.
    pub(super) fn move_on(&mut self) {
        let Some(config) = &self.accepted else { return };
        let form = self.form(config);
        let since = match (self.services_in, self.moving) {
            (Some(known), None) if known != form => return,
            (_, moving) => moving.map_or(0, |moving| moving.since),
        };
        let listed = |range| self.follower.listed_at(range) >= Some(since);
        let ranges = self.completeness.ranges_of(form.kinds());
        if !self.is_complete(form) || self.config_at < since || !ranges.into_iter().all(listed) {
            return;
        }
        (self.services_in, self.moving) = (Some(form), None);
        let other = match self.config.role {
            Role::Local => ServiceFormat::Slices,
            Role::Remote => ServiceFormat::Local,
        };
        let others = ServiceFormat::ALL.into_iter().filter(|of| *of != form && *of != other);
        let without = |kind: &RecordKind| PeerEvent::Record(RecordEvent::Without(*kind));
        self.events.extend(others.flat_map(ServiceFormat::kinds).map(without));
        self.follow();
    }

    fn is_complete(&self, form: ServiceFormat) -> bool {
        form.kinds().iter().all(|kind| self.completeness.is_confirmed(*kind))
    }
}
