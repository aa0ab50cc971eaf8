//! The interface between a source and the exporter.

use mesh_model::object::{Kind, Object, ObjectKey};

/// A position in a source's history of one kind. Opaque to everyone but the source and those who compare two positions
/// of it for being later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceVersion(pub u64);

/// What a source reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEvent {
    /// All objects of the kind follow; what is not among them when [`SourceEvent::Listed`] comes is gone. The first event
    /// of each kind, and again whenever the source lost its place.
    Listing {
        /// The kind.
        kind: Kind,
    },
    /// An object is there, new or changed.
    Applied {
        /// When.
        resource_version: ResourceVersion,
        /// The object.
        object: Object,
    },
    /// An object is gone.
    Deleted {
        /// When.
        resource_version: ResourceVersion,
        /// Which.
        key: ObjectKey,
    },
    /// All objects of the kind were reported.
    Listed {
        /// The kind.
        kind: Kind,
        /// As of when.
        resource_version: ResourceVersion,
    },
    /// Nothing of the kind changed up to here.
    Bookmark {
        /// The kind.
        kind: Kind,
        /// Up to when.
        resource_version: ResourceVersion,
    },
}
