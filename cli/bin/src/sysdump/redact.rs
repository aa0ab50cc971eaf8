//! Takes secrets out of text that goes to others.

/// Stands where a secret was.
const REMOVED: &str = "(removed)";
/// What comes before a secret, in any case.
const WORDS: [&str; 5] = ["password", "passwd", "token", "secret", "authorization"];

/// A text without private keys, and without what follows `password`, `token` and the like.
pub(super) fn redact(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut in_key = false;
    for line in text.split_inclusive('\n') {
        // A key may be in one line, with its line ends as \n.
        let begins = line.contains("PRIVATE KEY-----") && line.contains("-----BEGIN");
        let ends = line.contains("-----END") && line.contains("PRIVATE KEY-----");
        match (in_key || begins, ends) {
            (false, _) => kept.push_str(&without_values(line)),
            (true, ends) => {
                if begins {
                    let before = line.split("-----BEGIN").next().unwrap_or_default();
                    kept.extend([before, REMOVED, "\n"]);
                }
                in_key = !ends;
            }
        }
    }
    kept
}

/// A line without the values of secrets: what stands after `token:` or `token=`, up to its end.
fn without_values(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let value = WORDS.iter().flat_map(|word| lower.match_indices(word)).filter_map(|(at, word)| {
        let after = at + word.len();
        let sign = lower.get(after..)?.trim_start_matches(['"', '\'', '_', '-', ' ']);
        let is_value = sign.starts_with(['=', ':']) && !sign.get(1..)?.trim().is_empty();
        is_value.then(|| line.len() - sign.len() + 1)
    });
    match value.min() {
        Some(at) => {
            let end = if line.ends_with('\n') { "\n" } else { "" };
            format!("{} {REMOVED}{end}", line.get(..at).unwrap_or_default())
        }
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_removed_and_the_rest_stays() {
        let key = "-----BEGIN PRIVATE KEY-----\nMIGHAgEA\nabc=\n-----END PRIVATE KEY-----\n";
        for (text, wanted) in [
            ("all is well\n", "all is well\n"),
            ("tokens are counted\n", "tokens are counted\n"),
            (&format!("a\n{key}b\n"), "a\n(removed)\nb\n"),
            (&format!("x {}\nb", key.replace('\n', "\\n")), "x (removed)\nb"),
            ("user: a, password=hunter2 and more\nb\n", "user: a, password= (removed)\nb\n"),
            ("  \"Token\": \"abc\",\n", "  \"Token\": (removed)\n"),
            ("Authorization: Bearer abc", "Authorization: (removed)"),
            ("-----BEGIN EC PRIVATE KEY-----\ncut off", "(removed)\n"),
            ("kind: Secret\n", "kind: Secret\n"),
        ] {
            assert_eq!(redact(text), wanted, "{text}");
        }
    }
}
