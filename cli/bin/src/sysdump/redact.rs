//! Removes secrets from text.

/// Replaces a secret.
const REMOVED: &str = "(removed)";
/// Names of secrets, in any case.
const WORDS: [&str; 5] = ["password", "passwd", "token", "secret", "authorization"];

/// Removes private keys, values after `password`, `token` and the like, and tokens and passwords that can be recognised.
pub(super) fn redact(text: &str) -> String {
    let mut kept: Vec<String> = Vec::new();
    let mut in_key = false;
    // The indentation of a secret's name, if its value is on the lines below it.
    let mut below: Option<usize> = None;
    for line in text.split_inclusive('\n') {
        let indentation = line.len() - line.trim_start().len();
        match below {
            Some(name) if indentation > name || line.trim().is_empty() => continue,
            _ => below = None,
        }
        // A key may be on one line, with `\n` for its line breaks.
        let begins = line.contains("PRIVATE KEY-----") && line.contains("-----BEGIN");
        let ends = line.contains("-----END") && line.contains("PRIVATE KEY-----");
        match (in_key || begins, ends) {
            (false, true) => {
                // A log may begin within a key.
                while kept.last().is_some_and(|line| is_base64(line.trim())) {
                    kept.pop();
                }
                kept.push(format!("{REMOVED}\n"));
            }
            (false, false) => {
                let (line, is_below) = without_values(line);
                below = is_below.then_some(indentation);
                kept.push(line);
            }
            (true, ends) => {
                if begins {
                    let before = line.split("-----BEGIN").next().unwrap_or_default();
                    kept.push(format!("{before}{REMOVED}\n"));
                }
                in_key = !ends;
            }
        }
    }
    kept.concat()
}

fn is_base64(text: &str) -> bool {
    let is = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    !text.is_empty() && text.bytes().all(is)
}

/// Removes words that are secrets by themselves: JSON web tokens, and passwords in URLs.
fn without_tokens(line: &str) -> String {
    let end = |c: char| c.is_whitespace() || "\"'`,;()<>[]{}".contains(c);
    let word = |word: &str| {
        let is_token =
            word.trim_end_matches(end).starts_with("eyJ") && word.matches('.').count() == 2;
        if is_token {
            let tail = word.len() - word.trim_end_matches(end).len();
            return format!("{REMOVED}{}", word.get(word.len() - tail..).unwrap_or_default());
        }
        let address = word.split_once("://").and_then(|(scheme, rest)| {
            let host = rest.split('/').next()?;
            let (user, _) = host.rsplit_once('@')?;
            let after = rest.get(user.len()..)?;
            user.contains(':').then(|| format!("{scheme}://{REMOVED}{after}"))
        });
        address.unwrap_or_else(|| word.to_owned())
    };
    line.split_inclusive(end).map(word).collect()
}

/// Removes the values of secrets: everything from `token:` or `token=` to the end of the line. Also returns whether the
/// value is on the indented lines below.
fn without_values(line: &str) -> (String, bool) {
    let lower = line.to_ascii_lowercase();
    let value = WORDS.iter().flat_map(|word| lower.match_indices(word)).filter_map(|(at, word)| {
        let after = at + word.len();
        let sign = lower.get(after..)?.trim_start_matches(['"', '\'', '_', '-', ' ']);
        sign.starts_with(['=', ':']).then(|| line.len() - sign.len() + 1)
    });
    match value.min() {
        Some(at) => {
            let end = if line.ends_with('\n') { "\n" } else { "" };
            let value = line.get(at..).unwrap_or_default().trim();
            let is_below = value.is_empty() || value.starts_with(['|', '>', '{', '[']);
            (format!("{} {REMOVED}{end}", line.get(..at).unwrap_or_default()), is_below)
        }
        None => (without_tokens(line), false),
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
            ("a: 1\ntoken: |\n  abc\n\n  def\nb: 2\n", "a: 1\ntoken: (removed)\nb: 2\n"),
            ("{\n \"secret\": {\n  \"x\": \"y\"\n }\n}\n", "{\n \"secret\": (removed)\n }\n}\n"),
            ("MIGH+/\nabc=\n-----END PRIVATE KEY-----\nb\n", "(removed)\nb\n"),
            ("got \"eyJhbGci.eyJzdWIi.c2ln\", then\n", "got \"(removed)\", then\n"),
            ("to https://root:hunter2@etcd:2379/x\n", "to https://(removed)@etcd:2379/x\n"),
            ("to https://etcd:2379/@x 10.1.1.1\n", "to https://etcd:2379/@x 10.1.1.1\n"),
        ] {
            assert_eq!(redact(text), wanted, "{text}");
        }
    }
}
