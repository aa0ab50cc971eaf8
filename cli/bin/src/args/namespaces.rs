//! The flags that select namespaces.

use clap::Args as ClapArgs;

/// The namespace of a service's name.
#[derive(Debug, ClapArgs)]
pub(crate) struct Namespace {
    /// The namespace of NAME; by default `default`. Without a NAME: show only this namespace
    #[arg(long, short, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Show the services of that NAME in all namespaces
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    all_namespaces: bool,
}

/// The services that a command shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Services {
    /// `NAMESPACE/NAME[:PORT]`.
    One(String),
    /// All services of this name, in any namespace: `NAME[:PORT]`.
    Named(String),
    /// All services in a namespace.
    Of(String),
    All,
}

/// The namespaces of a list.
#[derive(Debug, ClapArgs)]
pub(crate) struct Namespaces {
    /// Show only this namespace
    #[arg(long, short, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Show all namespaces; this is the default
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    all_namespaces: bool,
}

impl Namespace {
    /// The services that a NAME and these flags select.
    pub(crate) fn services(&self, name: Option<&str>) -> Services {
        let Self { namespace, all_namespaces } = self;
        match (name, namespace) {
            // A slash after a colon belongs to the port's protocol.
            (Some(name), _) if name.split(':').next().is_some_and(|name| name.contains('/')) => {
                Services::One(name.to_owned())
            }
            (Some(name), _) if *all_namespaces => Services::Named(name.to_owned()),
            (Some(name), namespace) => {
                Services::One(format!("{}/{name}", namespace.as_deref().unwrap_or("default")))
            }
            (None, Some(namespace)) => Services::Of(namespace.clone()),
            (None, None) => Services::All,
        }
    }
}

impl Namespaces {
    pub(crate) fn only(&self) -> Option<&str> {
        self.namespace.as_deref().filter(|_| !self.all_namespaces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_of_the_namespace_that_is_given() {
        let of = |namespace: Option<&str>, all_namespaces: bool, name: Option<&str>| {
            Namespace { namespace: namespace.map(str::to_owned), all_namespaces }.services(name)
        };
        assert_eq!(of(None, false, Some("web")), Services::One("default/web".into()));
        assert_eq!(of(Some("shop"), false, Some("web:80")), Services::One("shop/web:80".into()));
        assert_eq!(
            of(Some("shop"), false, Some("web:80/TCP")),
            Services::One("shop/web:80/TCP".into())
        );
        assert_eq!(of(Some("x"), false, Some("shop/web")), Services::One("shop/web".into()));
        assert_eq!(of(None, true, Some("web")), Services::Named("web".into()));
        assert_eq!(of(Some("shop"), false, None), Services::Of("shop".into()));
        assert_eq!(of(None, true, None), Services::All);
        assert_eq!(of(None, false, None), Services::All);
    }
}
