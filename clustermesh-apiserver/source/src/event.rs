//! The interface between a source and the exporter.

use mesh_model::object::{Kind, Object, ObjectKey};

/// A position in the history of a source. Positions of one source can be compared: a later one is greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceVersion(pub u64);

/// An event of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEvent {
    /// A complete list of the kind follows, until [`SourceEvent::Listed`]. Objects that are not in it no longer exist. This
    /// is the first event of each kind. It is repeated when the source cannot continue its watch.
    Listing {
        /// The kind.
        kind: Kind,
    },
    /// An object is new or changed.
    Applied {
        /// The position of the change.
        resource_version: ResourceVersion,
        /// The object.
        object: Object,
    },
    /// An object was deleted.
    Deleted {
        /// The position of the change.
        resource_version: ResourceVersion,
        /// The object's key.
        key: ObjectKey,
    },
    /// An object is there and cannot be read: what was known of it stays as it was.
    Unreadable {
        /// Which.
        key: ObjectKey,
    },
    /// The list of the kind is complete.
    Listed {
        /// The kind.
        kind: Kind,
        /// The position of the list.
        resource_version: ResourceVersion,
    },
    /// Nothing of the kind has changed up to this position.
    Bookmark {
        /// The kind.
        kind: Kind,
        /// The position.
        resource_version: ResourceVersion,
    },
}
