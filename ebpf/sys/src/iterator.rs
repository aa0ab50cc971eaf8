//! Reading what a program says about each entry of a map.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

use aya_obj::generated::{
    bpf_attach_type::BPF_TRACE_ITER,
    bpf_cmd::{BPF_ITER_CREATE, BPF_LINK_CREATE},
};

use crate::{bpf, zeroed_attr};

/// The kernel's `bpf_iter_link_info` for maps, which is a union with the descriptor in front.
#[repr(C)]
struct LinkInfo {
    map: u32,
    zero: [u32; 3],
}

/// A file that has what an iterator's program writes about the entries of a map, as they are when it is read.
pub fn iterate(program: impl AsFd, map: impl AsFd) -> io::Result<File> {
    let info = LinkInfo { map: word(map.as_fd().as_raw_fd())?, zero: [0; 3] };
    let mut attr = zeroed_attr();
    attr.link_create.__bindgen_anon_1.prog_fd = word(program.as_fd().as_raw_fd())?;
    attr.link_create.attach_type = BPF_TRACE_ITER as u32;
    let iterator = aya_obj::generated::bpf_attr__bindgen_ty_14__bindgen_ty_3__bindgen_ty_1 {
        iter_info: (&raw const info) as u64,
        iter_info_len: u32::try_from(size_of::<LinkInfo>()).map_err(io::Error::other)?,
    };
    attr.link_create.__bindgen_anon_3.__bindgen_anon_1 = iterator;
    // SAFETY: `info` has as many bytes as is said and outlives the call.
    let link = unsafe { bpf(BPF_LINK_CREATE, &mut attr) }.and_then(owned)?;
    let mut attr = zeroed_attr();
    attr.iter_create.link_fd = word(link.as_raw_fd())?;
    // SAFETY: the attribute holds a descriptor and no pointer.
    let file = unsafe { bpf(BPF_ITER_CREATE, &mut attr) }.and_then(owned)?;
    Ok(File::from(file))
}

fn owned(fd: i64) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just made the descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn word(fd: RawFd) -> io::Result<u32> {
    u32::try_from(fd).map_err(io::Error::other)
}
