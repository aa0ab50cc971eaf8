//! Kernel interfaces that the tables need and aya does not offer: arrays as memory, batches, iterators, links, and what
//! is loaded and attached. And whether the clock is kept right.
#![expect(
    unsafe_code,
    reason = "bpf(2), mmap(2), ioctl(2), adjtimex(2); each use says why it is sound"
)]

mod batch;
mod clock;
mod interface;
mod iterator;
mod link;
mod map;
mod mmap_array;
mod program;

use std::{
    io,
    os::fd::{FromRawFd as _, OwnedFd, RawFd},
};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_cmd::BPF_OBJ_GET_INFO_BY_FD};

pub use batch::{Batch, lookup_all, lookup_some};
pub use clock::is_clock_synchronised;
pub use interface::is_ethernet;
pub use iterator::Iterator;
pub use link::{Link, LinkInfo};
pub use map::{MapInfo, open, pin};
pub use mmap_array::MmapArray;
pub use program::{CgroupHook, Program, programs_at, programs_at_ingress};

/// bpf(2).
///
/// # Safety
/// The pointers in `attr` must suit `command`.
unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: `attr` is valid for its size; what it points to is the caller's promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            attr as *mut bpf_attr,
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// An `attr` of zeros, as the kernel wants the rest of it.
fn zeroed_attr() -> bpf_attr {
    // SAFETY: a union of plain integers; all zeros is a value of each.
    unsafe { std::mem::zeroed() }
}

/// The descriptor that a successful call returned.
fn new_descriptor(result: i64) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel just made the descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn word(fd: RawFd) -> io::Result<u32> {
    u32::try_from(fd).map_err(io::Error::other)
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
