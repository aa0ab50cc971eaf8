//! A pinned link: which cgroup it is at, and the program behind it exchanged.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::{
    bpf_cmd::{BPF_LINK_UPDATE, BPF_OBJ_GET, BPF_OBJ_GET_INFO_BY_FD},
    bpf_link_info,
};

use crate::{bpf, zeroed_attr};

/// A link that was pinned, by this process or another.
#[derive(Debug)]
pub struct Link {
    fd: OwnedFd,
}

impl Link {
    /// Opens the pin.
    pub fn open(pin: &Path) -> io::Result<Self> {
        let path = CString::new(pin.as_os_str().as_bytes())?;
        let mut attr = zeroed_attr();
        attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
        // SAFETY: the path is a string that outlives the call.
        let fd = unsafe { bpf(BPF_OBJ_GET, &mut attr) }?;
        let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel just made the descriptor for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// Puts `program` in the place of whatever the link runs. No call in between goes without a program.
    pub fn update(&self, program: impl AsFd) -> io::Result<()> {
        let mut attr = zeroed_attr();
        attr.link_update.link_fd = word(self.fd.as_raw_fd())?;
        attr.link_update.__bindgen_anon_1.new_prog_fd = word(program.as_fd().as_raw_fd())?;
        // SAFETY: the attribute holds two descriptors and no pointer.
        unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }.map(|_| ())
    }

    /// The id of the cgroup that the link is at; 0 once that cgroup is gone. Meaningless for links of another kind.
    pub fn cgroup_id(&self) -> io::Result<u64> {
        // SAFETY: a struct of plain integers; all zeros is a value.
        let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
        let mut attr = zeroed_attr();
        attr.info.bpf_fd = word(self.fd.as_raw_fd())?;
        attr.info.info_len = u32::try_from(size_of::<bpf_link_info>()).map_err(io::Error::other)?;
        attr.info.info = (&raw mut info) as u64;
        // SAFETY: `info` has room for `info_len` bytes and outlives the call.
        unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
        // SAFETY: plain integers, written by the kernel for a cgroup link and zero otherwise.
        Ok(unsafe { info.__bindgen_anon_1.cgroup.cgroup_id })
    }
}

fn word(fd: RawFd) -> io::Result<u32> {
    u32::try_from(fd).map_err(io::Error::other)
}
