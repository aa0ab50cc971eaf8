//! In which form a cluster's services are followed, and how it changes.
//!
//! A cluster says in its config how it exports services, and may say something else later. Whatever it changes to, the new
//! form is listed and confirmed before what the old one said is let go of.

use mesh_model::{ClusterConfig, ExportMode, RecordEvent, RecordKind};

use super::{PeerEvent, PeerFollower, Role};

/// A form in which a cluster tells its services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One record a service.
    Services,
    /// One record an endpoint slice.
    Slices,
    /// For own nodes: services that are not global too, and their slices.
    Local,
}

// === impl Form ===

impl Form {
    const ALL: [Self; 3] = [Self::Services, Self::Slices, Self::Local];

    /// The records in which it is told. Slices come first, so that no service is there without its backends.
    pub(super) fn kinds(self) -> &'static [RecordKind] {
        match self {
            Self::Services => &[RecordKind::Service],
            Self::Slices => &[RecordKind::EndpointSlice],
            Self::Local => &[RecordKind::LocalEndpointSlice, RecordKind::LocalService],
        }
    }

    /// Whether a cluster of that config goes on telling it.
    fn is_in(self, config: &ClusterConfig) -> bool {
        match (self, &config.export_mode) {
            (Self::Services, mode) => *mode != ExportMode::EndpointSlicesOnly,
            (Self::Slices, mode) => *mode != ExportMode::Services,
            (Self::Local, _) => true,
        }
    }
}

// === impl PeerFollower ===

impl PeerFollower {
    /// Whether what is for own nodes is followed: our apiserver names itself, or says that it has told it, or has told it
    /// once. An etcd of it that is filled anew must not be taken for one of a Cilium while the canary is not there.
    pub(super) fn is_local(&self, config: &ClusterConfig) -> bool {
        let ours = config.uuid.is_some() || self.completeness.is_local_told();
        self.config.role == Role::Own && (ours || self.told_as == Some(Form::Local))
    }

    /// The form that is wanted of a cluster.
    fn form(&self, config: &ClusterConfig) -> Form {
        match &config.export_mode {
            _ if self.is_local(config) => Form::Local,
            // Our own cluster's nodes are told more, or it is a Cilium's.
            _ if self.config.role == Role::Own => Form::Services,
            ExportMode::Services => Form::Services,
            ExportMode::ServicesAndEndpointSlices | ExportMode::EndpointSlicesOnly => Form::Slices,
            // Refused before.
            ExportMode::Unknown(_) => Form::Services,
        }
    }

    /// The forms to follow: the wanted one, and until that is told in full the one before it, if the cluster keeps that.
    /// Where it does not keep it, what it said stays as it is meanwhile.
    pub(super) fn forms(&self, config: &ClusterConfig) -> Vec<Form> {
        let wanted = self.form(config);
        let before = self.told_as.filter(|form| *form != wanted && form.is_in(config));
        before.into_iter().chain([wanted]).collect()
    }

    /// These kinds are confirmed. If the services are told in full with that, they are told in no other form any more,
    /// neither here nor as whoever followed the cluster before knew them.
    pub(super) fn told_services(&mut self, kinds: &[RecordKind]) {
        let Some(config) = &self.accepted else { return };
        let form = self.form(config);
        let told = |kind: &RecordKind| self.completeness.is_confirmed(*kind);
        if !form.kinds().iter().any(|kind| kinds.contains(kind)) || !form.kinds().iter().all(told) {
            return;
        }
        let other = match self.config.role {
            Role::Own => Form::Slices,
            Role::Remote => Form::Local,
        };
        let others = Form::ALL.into_iter().filter(|of| *of != form && *of != other);
        let without = |kind: &RecordKind| PeerEvent::Record(RecordEvent::Without(*kind));
        self.events.extend(others.flat_map(Form::kinds).map(without));
        if self.told_as != Some(form) {
            self.told_as = Some(form);
            self.follow();
        }
    }
}
