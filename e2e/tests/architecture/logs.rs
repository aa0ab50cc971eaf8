//! What programs log.

use proc_macro2::{TokenStream, TokenTree};

/// The macros of levels that operators read, and of their spans.
const LEVELS: [&str; 6] = ["info", "warn", "error", "info_span", "warn_span", "error_span"];

/// The arguments of calls that log a value as `Debug` writes it: names of types and fields, which are this code's words.
pub(crate) fn debug_output(code: TokenStream) -> Vec<String> {
    let tokens: Vec<TokenTree> = code.into_iter().collect();
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else { continue };
        let is_log = match tokens[..at].last_chunk() {
            Some([TokenTree::Ident(name), TokenTree::Punct(mark)]) => {
                mark.as_char() == '!' && LEVELS.iter().any(|level| *name == *level)
            }
            _ => false,
        };
        if is_log && has_debug(group.stream()) {
            found.push(group.to_string());
        }
        found.extend(debug_output(group.stream()));
    }
    found
}

fn has_debug(arguments: TokenStream) -> bool {
    let tokens: Vec<TokenTree> = arguments.into_iter().collect();
    tokens.iter().enumerate().any(|(at, token)| match token {
        // `?field` and `name = ?value`. Behind anything else the mark hands on an error.
        TokenTree::Punct(mark) if mark.as_char() == '?' => match tokens[..at].last() {
            None => true,
            Some(TokenTree::Punct(before)) => matches!(before.as_char(), ',' | '='),
            Some(_) => false,
        },
        TokenTree::Literal(text) => {
            let text = text.to_string();
            text.contains(":?}") || text.contains(":#?}")
        }
        _ => false,
    })
}
