//! What the tables need of the kernel and aya does not offer: arrays as memory, batches, iterators over maps, and exchanging
//! a link's program.
#![expect(unsafe_code, reason = "bpf(2) and mmap(2); each use says why it is sound")]

mod batch;
mod iterator;
mod link;
mod mmap_array;

use std::io;

use aya_obj::generated::{bpf_attr, bpf_cmd};

pub use batch::{lookup_all, update_all};
pub use iterator::iterate;
pub use link::Link;
pub use mmap_array::MmapArray;

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
