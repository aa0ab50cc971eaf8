//! What Kubernetes takes for a name.

/// A DNS label: what namespaces, services and ports are called.
pub(super) fn label(name: &str) -> Result<(), &'static str> {
    let good = is_label(name) && name.len() <= 63;
    good.then_some(())
        .ok_or("it is at most 63 of a-z, 0-9 and -, and begins and ends with a letter or digit")
}

/// DNS labels with dots between them: what all else is called.
pub(super) fn subdomain(name: &str) -> Result<(), &'static str> {
    let good = name.split('.').all(is_label) && name.len() <= 253;
    good.then_some(())
        .ok_or("it is at most 253 of a-z, 0-9, - and ., and begins and ends with a letter or digit")
}

/// The name of a container's port.
pub(super) fn port(name: &str) -> Result<(), &'static str> {
    let good = is_label(name)
        && name.len() <= 15
        && !name.contains("--")
        && name.contains(|c: char| c.is_ascii_lowercase());
    good.then_some(())
        .ok_or("the name of a port is at most 15 of a-z, 0-9 and -, with a letter among them")
}

fn is_label(name: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.chars().all(is_inner) && !name.starts_with('-') && !name.ends_with('-')
}
