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
    bpf_cmd::{BPF_LINK_UPDATE, BPF_OBJ_GET, BPF_OBJ_GET_INFO_BY_FD, BPF_PROG_GET_FD_BY_ID},
    bpf_link_info, bpf_prog_info,
};

use crate::{bpf, zeroed_attr};

/// How many maps of a program are looked at; those of this mesh have a dozen.
const MAPS: usize = 64;

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
        let fd = new_descriptor(unsafe { bpf(BPF_OBJ_GET, &mut attr) }?)?;
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
        // SAFETY: plain integers, written by the kernel for a cgroup link and zero otherwise.
        Ok(unsafe { self.info()?.__bindgen_anon_1.cgroup.cgroup_id })
    }

    /// The ids of the maps that the program behind the link uses.
    pub fn map_ids(&self) -> io::Result<Vec<u32>> {
        let mut attr = zeroed_attr();
        attr.__bindgen_anon_6.__bindgen_anon_1.prog_id = self.info()?.prog_id;
        // SAFETY: the attribute holds an id and no pointer.
        let program = new_descriptor(unsafe { bpf(BPF_PROG_GET_FD_BY_ID, &mut attr) }?)?;
        let mut ids = vec![0; MAPS];
        // SAFETY: a struct of plain integers; all zeros is a value.
        let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
        info.nr_map_ids = u32::try_from(ids.len()).map_err(io::Error::other)?;
        info.map_ids = ids.as_mut_ptr() as u64;
        // SAFETY: a `bpf_prog_info` for a program, and `ids` has room for the number of ids that it says.
        unsafe { read_info(program.as_raw_fd(), &mut info) }?;
        ids.truncate(usize::try_from(info.nr_map_ids).map_err(io::Error::other)?);
        Ok(ids)
    }

    fn info(&self) -> io::Result<bpf_link_info> {
        // SAFETY: a struct of plain integers; all zeros is a value.
        let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
        // SAFETY: a `bpf_link_info` for a link, without pointers in it.
        unsafe { read_info(self.fd.as_raw_fd(), &mut info) }?;
        Ok(info)
    }
}

/// Has the kernel describe what is behind a descriptor.
///
/// # Safety
/// `T` must be the kernel's struct for that kind of thing, and the pointers in it valid.
unsafe fn read_info<T>(fd: RawFd, info: &mut T) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.info.bpf_fd = word(fd)?;
    attr.info.info_len = u32::try_from(size_of::<T>()).map_err(io::Error::other)?;
    attr.info.info = (&raw mut *info) as u64;
    // SAFETY: `info` has room for `info_len` bytes and outlives the call; its pointers are the caller's promise.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(())
}

/// What a successful call that makes a descriptor returned.
fn new_descriptor(result: i64) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel just made the descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn word(fd: RawFd) -> io::Result<u32> {
    u32::try_from(fd).map_err(io::Error::other)
}
