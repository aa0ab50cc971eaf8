//! `clustermesh version`.

use mesh_admin::version::{COMMIT, VERSION, WIRE_REVISION, layout, line};
use serde_json::json;

use crate::{
    outcome::Outcome,
    output::{self, Output},
};

pub(crate) fn run(output: Output) -> anyhow::Result<Outcome> {
    match output {
        Output::Text => output::line(format!("clustermesh {}", line()))?,
        Output::Json => output::json(
            "Version",
            json!({ "version": VERSION, "commit": COMMIT, "wireRevision": WIRE_REVISION, "mapLayout": layout() }),
        )?,
    }
    Ok(Outcome::Done)
}
