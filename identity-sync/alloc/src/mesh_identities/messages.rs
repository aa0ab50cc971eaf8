//! What a replica and the API server say to each other about identities.

use std::sync::Arc;

use mesh_model::{Identity, Labels};

use crate::table::State;

/// A `MeshIdentity`, as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshIdentity {
    /// The ID, which is its name.
    pub id: Identity,
    /// The label set that has the ID, or had it.
    pub labels: Labels,
    /// How the ID is.
    pub state: State,
    /// Since when, in nanoseconds since 1970.
    pub since: u64,
    /// The object's version.
    pub version: u64,
}

/// What a replica asks of the API server. It is asked until there is an [`IdentityAnswer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityRequest {
    /// An object of this name, unless there is one.
    Create {
        /// The ID.
        id: Identity,
        /// Its label set.
        labels: Arc<Labels>,
        /// Its state.
        state: State,
    },
    /// Another state of an object, unless its version is another.
    Update {
        /// The ID.
        id: Identity,
        /// Its label set, as before.
        labels: Arc<Labels>,
        /// Its new state.
        state: State,
        /// The version that is known.
        version: u64,
    },
    /// The end of an object, unless its version is another.
    Delete {
        /// The ID.
        id: Identity,
        /// The label set that had it.
        labels: Arc<Labels>,
        /// The version that is known.
        version: u64,
    },
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityAnswer {
    /// The object is so now, by this request or by another replica's.
    Object(MeshIdentity),
    /// There is no object of this name.
    Gone(Identity),
    /// There is one that cannot be read.
    Taken(Identity),
}

// === impl IdentityRequest ===

impl IdentityRequest {
    /// The ID.
    pub fn id(&self) -> Identity {
        match self {
            Self::Create { id, .. } | Self::Update { id, .. } | Self::Delete { id, .. } => *id,
        }
    }

    /// The label set of the ID.
    pub(super) fn labels(&self) -> &Arc<Labels> {
        match self {
            Self::Create { labels, .. }
            | Self::Update { labels, .. }
            | Self::Delete { labels, .. } => labels,
        }
    }
}

// === impl IdentityAnswer ===

impl IdentityAnswer {
    /// The ID.
    pub fn id(&self) -> Identity {
        match self {
            Self::Object(object) => object.id,
            Self::Gone(id) | Self::Taken(id) => *id,
        }
    }
}
