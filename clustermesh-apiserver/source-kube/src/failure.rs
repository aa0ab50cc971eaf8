//! Why a request came to nothing, in words.

use http::StatusCode;

use crate::response::Status;

/// Why a request came to nothing, or a watch ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The API server refused it: its status, in JSON, and the HTTP code.
    Refused {
        /// The HTTP status code.
        code: u16,
        /// The body of the answer.
        body: String,
    },
    /// There was no answer, or it broke off; a sentence.
    Broken(String),
}

// === impl Failure ===

impl Failure {
    /// The API server answered with this in place of what was asked for.
    pub(crate) fn refused(status: StatusCode, body: String) -> Self {
        Self::Refused { code: status.as_u16(), body }
    }

    /// What the API server says, if it answered.
    pub(crate) fn status(&self) -> Option<Status> {
        let Self::Refused { code, body } = self else { return None };
        let status: Status = serde_json::from_str(body).unwrap_or_default();
        Some(Status { code: *code, ..status })
    }

    /// What happened when `verb` was asked of `object`, with what to do; `right`: what a role lacks if that is not allowed.
    pub(crate) fn sentence(&self, verb: &str, object: &str, right: &str) -> String {
        let (code, message) = match (self, self.status()) {
            (Self::Broken(reason), _) => return format!("the API server: {reason}"),
            (Self::Refused { code, .. }, status) => (code, status.unwrap_or_default().message),
        };
        match code {
            401 => "the API server does not know this apiserver: its service account's token, or the kubeconfig, is not valid".to_owned(),
            403 => format!("the API server does not allow this apiserver to {verb} {object}: give {right}"),
            _ => format!("the API server refused to {verb} {object} (HTTP {code}) {message}"),
        }
    }
}
