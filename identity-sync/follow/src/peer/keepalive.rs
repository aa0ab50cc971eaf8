//! A keepalive: over the open connection, for a small key.

use mesh_wire::key::HEARTBEAT;

use crate::machine::{Action, Input, KeyRange, ListError, RequestId};

/// Whether an answer is wanted. One question at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Keepalive {
    #[default]
    NotWanted,
    Wanted,
    Asked,
}

/// The question's id: a follower counts its own from 1.
const QUESTION: RequestId = RequestId(0);

impl Keepalive {
    /// Asks as soon as there is time to.
    pub(super) fn ask(&mut self) {
        if *self == Self::NotWanted {
            *self = Self::Wanted;
        }
    }

    /// The question, if it has not been put.
    pub(super) fn poll(&mut self) -> Option<Action> {
        if *self != Self::Wanted {
            return None;
        }
        *self = Self::Asked;
        Some(Action::List {
            request: QUESTION,
            span: KeyRange::key(HEARTBEAT),
            limit: 1,
            revision: None,
            keys_only: true,
        })
    }

    /// Takes the answer; `None` if it is about something else. A refusal is an answer too.
    pub(super) fn answered(&mut self, input: &Input) -> Option<bool> {
        let answered = match input {
            Input::Page { request: QUESTION, .. } => true,
            Input::ListFailed { request: QUESTION, error } => {
                !matches!(error, ListError::Broken(_))
            }
            _ => return None,
        };
        *self = Self::NotWanted;
        Some(answered)
    }
}
