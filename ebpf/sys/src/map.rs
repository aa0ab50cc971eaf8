//! Pins, and what a pinned map is.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::{
    bpf_cmd::{BPF_OBJ_GET, BPF_OBJ_PIN},
    bpf_map_info,
};

use crate::{bpf, new_descriptor, read_info, word, zeroed_attr};

/// A map, as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapInfo {
    /// It identifies the map until the next boot.
    pub id: u32,
    /// The kernel's `bpf_map_type`.
    pub kind: u32,
    /// The flags that it was made with.
    pub flags: u32,
    /// Bytes of a key.
    pub key: u32,
    /// Bytes of a value.
    pub value: u32,
    /// How many entries it has room for.
    pub entries: u32,
}

/// Pins what is behind a descriptor.
pub fn pin(what: impl AsFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = word(what.as_fd().as_raw_fd())?;
    // SAFETY: the path is a string that outlives the call.
    unsafe { bpf(BPF_OBJ_PIN, &mut attr) }.map(|_| ())
}

/// Opens whatever is pinned at a path.
pub fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    // SAFETY: the path is a string that outlives the call.
    new_descriptor(unsafe { bpf(BPF_OBJ_GET, &mut attr) }?)
}

// === impl MapInfo ===

impl MapInfo {
    /// The properties of the map that is pinned at a path.
    pub fn of_pin(pin: &Path) -> io::Result<Self> {
        let map = open(pin)?;
        // SAFETY: a struct of plain integers; all zeros is a value.
        let mut info: bpf_map_info = unsafe { std::mem::zeroed() };
        // SAFETY: a `bpf_map_info` for a map, without pointers in it.
        unsafe { read_info(map.as_raw_fd(), &mut info) }?;
        Ok(Self {
            id: info.id,
            kind: info.type_,
            flags: info.map_flags,
            key: info.key_size,
            value: info.value_size,
            entries: info.max_entries,
        })
    }
}
