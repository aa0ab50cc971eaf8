//! The version of this build.

use crate::v1::Version;

/// The revision of the contract between clusters (`docs/wire.md`).
pub const WIRE_REVISION: u32 = 1;

/// The product's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit from which it was built (12 hexadecimal digits), or `unknown`.
pub const COMMIT: &str = env!("CLUSTERMESH_COMMIT");

/// The version for the admin API.
pub fn version() -> Version {
    Version {
        version: VERSION.into(),
        commit: COMMIT.into(),
        wire_revision: WIRE_REVISION,
        layout: layout(),
    }
}

/// The hash of the kernel tables' layout, in 8 hexadecimal digits.
pub fn layout() -> String {
    format!("{:08x}", mesh_layout::layout_hash())
}

/// The version in one line, for `--version`.
pub fn line() -> &'static str {
    static LINE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    LINE.get_or_init(|| {
        format!(
            "{VERSION} (commit {COMMIT}, wire revision {WIRE_REVISION}, map layout {})",
            layout()
        )
    })
}
