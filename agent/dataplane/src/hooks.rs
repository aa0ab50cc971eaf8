//! The hooks at which the programs are attached.

use std::path::Path;

use mesh_sys::CgroupHook;

/// A program, and where it is attached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hook {
    /// The program's name, which is also its link's pin.
    pub(crate) program: &'static str,
    /// The kernel's hook.
    pub(crate) at: CgroupHook,
}

/// All of them. Those that reverse an address come first: no address must be translated that could not be shown as it
/// was asked for.
pub(crate) const HOOKS: [Hook; 8] = [
    Hook { program: "cm_getpeername4", at: CgroupHook::Getpeername4 },
    Hook { program: "cm_getpeername6", at: CgroupHook::Getpeername6 },
    Hook { program: "cm_recvmsg4", at: CgroupHook::Recvmsg4 },
    Hook { program: "cm_recvmsg6", at: CgroupHook::Recvmsg6 },
    Hook { program: "cm_connect4", at: CgroupHook::Connect4 },
    Hook { program: "cm_connect6", at: CgroupHook::Connect6 },
    Hook { program: "cm_sendmsg4", at: CgroupHook::Sendmsg4 },
    Hook { program: "cm_sendmsg6", at: CgroupHook::Sendmsg6 },
];

/// How links are named that another release left, and that stay.
pub(crate) const FORMER: &str = "former-";

/// Whether a link's program only shows the address that was asked for: such programs read no tables.
pub(crate) fn is_reverse(link: &Path) -> bool {
    let name = link.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = name.strip_prefix(FORMER).unwrap_or(name);
    name.starts_with("cm_getpeername") || name.starts_with("cm_recvmsg")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shows_is_attached_before_what_translates() {
        let (show, translate) = HOOKS.split_at(4);
        assert!(show.iter().all(|hook| is_reverse(Path::new(hook.program))));
        assert!(!translate.iter().any(|hook| is_reverse(Path::new(hook.program))));
        assert!(is_reverse(Path::new("/pins/links/former-cm_recvmsg4")));
    }
}
