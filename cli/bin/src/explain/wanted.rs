//! The services that a user asks to have explained.

use mesh_offline::ServiceQuery;

use super::shown::ShownFrontend;
use crate::args::Services;

/// The services that a user asks for.
pub(super) struct Wanted {
    /// One service, or a port of it.
    pub(super) query: Option<ServiceQuery>,
    pub(super) of: Of,
}

/// Which services, if not a single one.
pub(super) enum Of {
    Any,
    Namespace(String),
    /// All services of this name.
    Name(ServiceQuery),
}

impl Wanted {
    pub(super) fn new(services: &Services) -> anyhow::Result<Self> {
        Ok(match services {
            Services::One(text) => Self { query: Some(ServiceQuery::parse(text)?), of: Of::Any },
            Services::Named(text) => Self { query: None, of: Of::Name(ServiceQuery::parse(text)?) },
            Services::Of(namespace) => Self { query: None, of: Of::Namespace(namespace.clone()) },
            Services::All => Self { query: None, of: Of::Any },
        })
    }

    /// The message if nothing was found: only a name that exists in no namespace is reported here.
    pub(super) fn missing(&self, frontends: &[ShownFrontend]) -> Option<String> {
        match &self.of {
            Of::Name(query) if frontends.is_empty() => {
                Some(format!("there is no service {} in any namespace", query.service.name))
            }
            Of::Name(_) | Of::Any | Of::Namespace(_) => None,
        }
    }

    /// Whether a service without a frontend, or a refused record, may be wanted. Not all of them name a service or a port.
    pub(super) fn may_be(&self, absent: &ShownFrontend) -> bool {
        let (namespace, name) = absent.service.split_once('/').unwrap_or_default();
        let (of, named) = match &self.of {
            Of::Any => (true, None),
            Of::Namespace(wanted) => (namespace == wanted, None),
            Of::Name(wanted) => (name == &*wanted.service.name, Some(wanted)),
        };
        let port = self.query.as_ref().or(named);
        let has_port = absent.port.is_none() || port.is_none_or(|port| absent.has_port(port));
        (of || absent.service.is_empty()) && has_port
    }

    /// Whether a frontend is one of the wanted ones.
    pub(super) fn is(&self, frontend: &ShownFrontend) -> bool {
        let (namespace, name) = frontend.service.split_once('/').unwrap_or_default();
        let of = match &self.of {
            Of::Any => true,
            Of::Namespace(wanted) => namespace == wanted,
            Of::Name(wanted) => name == &*wanted.service.name && frontend.has_port(wanted),
        };
        of && self.query.as_ref().is_none_or(|query| frontend.has_port(query))
    }
}
