//! Finds files of containers that no longer exist: the runtime made no DEL for them, and never will.

use std::fmt;

use mesh_cni::Attachment;

/// The present state of a pod's network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetnsSeen {
    /// A namespace, or a file, with that inode.
    There(u64),
    /// It does not exist, in a folder that does.
    Gone,
    /// Unknown: the folder does not exist either, as in a container that does not see the node's.
    Hidden,
}

/// Why an attachment is none any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// The machine was rebooted since.
    OtherBoot,
    /// Its network namespace is gone.
    Gone,
    /// Another namespace replaced it.
    Another,
}

/// Whether an attachment is stale, in a boot of that name. If its namespace cannot be seen, it is not.
pub fn staleness(attachment: &Attachment, boot: &str, seen: NetnsSeen) -> Option<Stale> {
    if !boot.is_empty() && !attachment.boot.is_empty() && attachment.boot != boot {
        return Some(Stale::OtherBoot);
    }
    match seen {
        NetnsSeen::Gone => Some(Stale::Gone),
        NetnsSeen::There(inode) if inode != attachment.netns.inode => Some(Stale::Another),
        NetnsSeen::There(_) | NetnsSeen::Hidden => None,
    }
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherBoot => "the machine was rebooted since",
            Self::Gone => "its network namespace is gone",
            Self::Another => "another network namespace has replaced it",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::attachment;

    #[test]
    fn only_what_is_seen_to_be_gone_is_stale() {
        let pod = attachment("c1", "cart-0", "u1");
        let seen = |boot: &str, seen| staleness(&pod, boot, seen);
        assert_eq!(seen("b00", NetnsSeen::There(17)), None);
        assert_eq!(seen("b00", NetnsSeen::Hidden), None);
        assert_eq!(seen("b00", NetnsSeen::Gone), Some(Stale::Gone));
        assert_eq!(seen("b00", NetnsSeen::There(18)), Some(Stale::Another));
        // Wherever it was looked: numbers are given out again by the next boot.
        assert_eq!(seen("b01", NetnsSeen::There(17)), Some(Stale::OtherBoot));
        assert_eq!(seen("b01", NetnsSeen::Hidden), Some(Stale::OtherBoot));
        // An agent that does not know the boot does not decide by it.
        assert_eq!(seen("", NetnsSeen::Hidden), None);
    }
}
