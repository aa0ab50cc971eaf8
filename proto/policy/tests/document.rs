//! The table of fields in the documents is the one that the parser uses.

use std::{fs, path::Path};

use mesh_policy_rules::fields_markdown;

/// Regenerates with `UPDATE=1`.
#[test]
fn the_table_of_fields() -> std::io::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/policy.md");
    let text = fs::read_to_string(&path)?;
    let (begin, end) = ("<!-- fields -->\n", "<!-- end of fields -->");
    let parts = text.split_once(begin).and_then(|(before, rest)| {
        let (table, after) = rest.split_once(end)?;
        Some((before, table, after))
    });
    assert!(parts.is_some(), "docs/policy.md has no marks of the table");
    let Some((before, table, after)) = parts else { return Ok(()) };
    let wanted = format!("\n{}\n", fields_markdown().trim());
    if std::env::var_os("UPDATE").is_some() {
        return fs::write(&path, [before, begin, &wanted, end, after].concat());
    }
    assert_eq!(table, wanted, "run `UPDATE=1 cargo test -p mesh-policy-rules --test document`");
    Ok(())
}
