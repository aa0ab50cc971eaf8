//! Checks of names as in Kubernetes: each says what is wrong.

/// A DNS label, for names of namespaces, services and service ports.
pub fn label(name: &str) -> Result<(), &'static str> {
    let good = is_label(name) && name.len() <= 63;
    good.then_some(())
        .ok_or("it is at most 63 of a-z, 0-9 and -, and begins and ends with a letter or digit")
}

/// A DNS subdomain, for names of all other objects.
pub fn subdomain(name: &str) -> Result<(), &'static str> {
    let good = name.split('.').all(is_label) && name.len() <= 253;
    good.then_some(())
        .ok_or("it is at most 253 of a-z, 0-9, - and ., and begins and ends with a letter or digit")
}

/// The name of a container's port.
pub fn port(name: &str) -> Result<(), &'static str> {
    let good = is_label(name)
        && name.len() <= 15
        && !name.contains("--")
        && name.contains(|c: char| c.is_ascii_lowercase());
    good.then_some(())
        .ok_or("the name of a port is at most 15 of a-z, 0-9 and -, with a letter among them")
}

/// The name of a label or an annotation, with an optional domain and slash before it.
pub fn qualified(name: &str) -> Result<(), &'static str> {
    let (domain, name) = name.rsplit_once('/').map_or((None, name), |(of, name)| (Some(of), name));
    let good = !name.is_empty() && is_word(name) && domain.is_none_or(|of| subdomain(of).is_ok());
    good.then_some(()).ok_or(
        "it is at most 63 letters, digits, -, _ and ., and begins and ends with a letter or digit; a domain and / may precede it",
    )
}

/// The value of a label.
pub fn label_value(value: &str) -> Result<(), &'static str> {
    is_word(value).then_some(()).ok_or(
        "a value is at most 63 letters, digits, -, _ and ., and begins and ends with a letter or digit",
    )
}

fn is_word(word: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c);
    let is_end = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    let mut chars = word.chars();
    word.len() <= 63
        && word.chars().all(is_inner)
        && is_end(chars.next())
        && is_end(chars.next_back())
}

fn is_label(name: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.chars().all(is_inner) && !name.starts_with('-') && !name.ends_with('-')
}
