//! How policies are meant, as users write it.

use mesh_policy::{AllowLocalhost, CidrMatch, Enforcement, Options};
use serde::Deserialize;

/// `options` of a line of a batch. What is absent is as the flags' defaults have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VerdictOptions {
    /// `default`, `always` or `never`.
    enforcement_mode: Option<Mode>,
    default_local_cluster: Option<bool>,
    /// `always` or `policy`.
    allow_localhost: Option<Localhost>,
    /// `network-policy`, `all` or `none`.
    cidr_match: Option<Cidrs>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    Default,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Localhost {
    Always,
    Policy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Cidrs {
    NetworkPolicy,
    All,
    None,
}

// === impl VerdictOptions ===

impl VerdictOptions {
    /// What they mean, where `defaults` holds for what is absent.
    pub fn over(self, defaults: Options) -> Options {
        Options {
            enforcement: match self.enforcement_mode {
                None => defaults.enforcement,
                Some(Mode::Default) => Enforcement::Default,
                Some(Mode::Always) => Enforcement::Always,
                Some(Mode::Never) => Enforcement::Never,
            },
            default_local_cluster: self
                .default_local_cluster
                .unwrap_or(defaults.default_local_cluster),
            allow_localhost: match self.allow_localhost {
                None => defaults.allow_localhost,
                Some(Localhost::Always) => AllowLocalhost::Always,
                Some(Localhost::Policy) => AllowLocalhost::Policy,
            },
            cidr_match: match self.cidr_match {
                None => defaults.cidr_match,
                Some(Cidrs::NetworkPolicy) => CidrMatch::NetworkPolicy,
                Some(Cidrs::All) => CidrMatch::All,
                Some(Cidrs::None) => CidrMatch::None,
            },
        }
    }
}
