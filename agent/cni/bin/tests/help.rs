//! The plugin as a person starts it.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use std::process::{Command, Stdio};

#[test]
fn a_person_is_told_what_it_is() {
    for (flag, word) in [
        ("--help", "It is a CNI plugin"),
        ("-h", "/opt/cni/bin"),
        ("--version", "clustermesh-cni "),
        ("-V", "clustermesh-cni "),
    ] {
        let mut plugin = Command::new(env!("CARGO_BIN_EXE_clustermesh-cni"));
        let ended = plugin.arg(flag).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8(ended.stdout).unwrap();
        assert!(ended.status.success() && text.contains(word), "{flag}: {text}");
        assert_eq!(String::from_utf8(ended.stderr).unwrap(), "", "{flag}");
    }
}
