//! What was built.

use crate::v1::Version;

/// The revision of the contract between clusters (`docs/wire.md`).
pub const WIRE_REVISION: u32 = 1;

/// The product's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from, or `unknown`.
pub const COMMIT: &str = env!("CLUSTERMESH_COMMIT");

/// All of it, for the admin API.
pub fn version() -> Version {
    Version {
        version: VERSION.into(),
        commit: COMMIT.into(),
        wire_revision: WIRE_REVISION,
        layout: layout(),
    }
}

/// The hash of the kernel tables' layout.
pub fn layout() -> String {
    format!("{:08x}", mesh_layout::layout_hash())
}

/// All of it in a line, for `--version`.
pub fn line() -> &'static str {
    static LINE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    LINE.get_or_init(|| {
        format!(
            "{VERSION} (commit {COMMIT}, wire revision {WIRE_REVISION}, map layout {})",
            layout()
        )
    })
}
