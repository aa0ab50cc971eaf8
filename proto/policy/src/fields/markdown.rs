//! The table of fields, for readers.

use std::fmt::Write as _;

use super::{Schema, Support};

/// The tables of all schemas in Markdown.
pub fn fields_markdown() -> String {
    let mut text = String::new();
    for schema in Schema::ALL {
        let (title, note) = match schema {
            Schema::NetworkPolicy => ("NetworkPolicy (`networking.k8s.io/v1`)", ""),
            Schema::Cilium => (
                "CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy (`cilium.io/v2`)",
                " `spec` stands for each of `specs` too.",
            ),
        };
        let selectors: Vec<String> =
            schema.selectors().iter().map(|path| format!("`{path}`")).collect();
        // Writing to a text cannot fail.
        let _ = write!(
            text,
            "### {title}\n\n`{{a,b}}` is either; `[]` is an item of a list; `<selector>` is one of {}.{note}\n\n| field | |\n|---|---|\n",
            selectors.join(", "),
        );
        for field in schema.fields() {
            let _ = match field.support {
                Support::Done => writeln!(text, "| `{}` | done |", field.path),
                Support::Refused(why) => writeln!(text, "| `{}` | refused: {why} |", field.path),
                Support::NoEffect(why) => {
                    writeln!(text, "| `{}` | without effect: {why} |", field.path)
                }
            };
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}
