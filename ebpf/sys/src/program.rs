//! Programs that are loaded: their names, the maps that they use, and which of them are at a hook.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya_obj::generated::{
    BPF_F_QUERY_EFFECTIVE, bpf_attach_type,
    bpf_attach_type::BPF_TCX_INGRESS,
    bpf_cmd::{BPF_PROG_GET_FD_BY_ID, BPF_PROG_QUERY},
    bpf_prog_info,
};

use crate::{bpf, new_descriptor, read_info, word, zeroed_attr};

/// How many maps of a program are read; those of this mesh have a dozen.
const MAPS: usize = 64;
/// How many programs of a hook are read; the kernel allows 64 for a cgroup.
const PROGRAMS: usize = 256;

/// A loaded program.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
}

/// A hook of cgroups that programs of the mesh use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the kernel's hook of that name")]
pub enum CgroupHook {
    Connect4,
    Connect6,
    Sendmsg4,
    Sendmsg6,
    Recvmsg4,
    Recvmsg6,
    Getpeername4,
    Getpeername6,
}

/// The ids of the programs that run at a hook of a cgroup, in their order: those of the cgroups above it included.
pub fn programs_at(cgroup: impl AsFd, hook: CgroupHook) -> io::Result<Vec<u32>> {
    let mut attr = zeroed_attr();
    attr.query.__bindgen_anon_1.target_fd = word(cgroup.as_fd().as_raw_fd())?;
    attr.query.query_flags = BPF_F_QUERY_EFFECTIVE;
    query(attr, hook.attach_type())
}

/// The IDs of the programs at the ingress of an interface, in their order. The second are those of the links that hold
/// them, 0 for a program without.
pub fn programs_at_ingress(interface: u32) -> io::Result<Vec<(u32, u32)>> {
    let mut links = vec![0u32; PROGRAMS];
    let mut attr = zeroed_attr();
    attr.query.__bindgen_anon_1.target_ifindex = interface;
    attr.query.link_ids = links.as_mut_ptr() as u64;
    let programs = query(attr, BPF_TCX_INGRESS)?;
    Ok(programs.into_iter().zip(links).collect())
}

fn query(
    mut attr: aya_obj::generated::bpf_attr,
    attach_type: bpf_attach_type,
) -> io::Result<Vec<u32>> {
    let mut ids = vec![0u32; PROGRAMS];
    attr.query.attach_type = attach_type as u32;
    attr.query.prog_ids = ids.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.count = u32::try_from(ids.len()).map_err(io::Error::other)?;
    // SAFETY: `ids`, and the IDs of links where they are requested, have room for `count` numbers, and both outlive the
    // call.
    unsafe { bpf(BPF_PROG_QUERY, &mut attr) }?;
    // SAFETY: a plain integer of the same union member.
    let count = unsafe { attr.query.__bindgen_anon_2.count };
    ids.truncate(usize::try_from(count).map_err(io::Error::other)?);
    Ok(ids)
}

// === impl Program ===

impl Program {
    /// Finds it by its id.
    pub fn by_id(id: u32) -> io::Result<Self> {
        let mut attr = zeroed_attr();
        attr.__bindgen_anon_6.__bindgen_anon_1.prog_id = id;
        // SAFETY: the attribute holds an id and no pointer.
        Ok(Self { fd: new_descriptor(unsafe { bpf(BPF_PROG_GET_FD_BY_ID, &mut attr) }?)? })
    }

    /// Its name, of which the kernel keeps 15 bytes.
    pub fn name(&self) -> io::Result<String> {
        // SAFETY: a struct of plain integers; all zeros is a value.
        let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
        // SAFETY: a `bpf_prog_info` for a program, without pointers in it.
        unsafe { read_info(self.fd.as_raw_fd(), &mut info) }?;
        let name = info.name.iter().map_while(|c| match u8::try_from(*c) {
            Ok(0) => None,
            Ok(byte) => Some(char::from(byte)),
            Err(_) => Some(char::REPLACEMENT_CHARACTER),
        });
        Ok(name.collect())
    }

    /// The ids of the maps that it uses.
    pub fn maps(&self) -> io::Result<Vec<u32>> {
        let mut ids = vec![0; MAPS];
        // SAFETY: a struct of plain integers; all zeros is a value.
        let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
        info.nr_map_ids = u32::try_from(ids.len()).map_err(io::Error::other)?;
        info.map_ids = ids.as_mut_ptr() as u64;
        // SAFETY: a `bpf_prog_info` for a program, and `ids` has room for the number of IDs that it contains.
        unsafe { read_info(self.fd.as_raw_fd(), &mut info) }?;
        ids.truncate(usize::try_from(info.nr_map_ids).map_err(io::Error::other)?);
        Ok(ids)
    }
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

// === impl CgroupHook ===

impl CgroupHook {
    fn attach_type(self) -> bpf_attach_type {
        use bpf_attach_type::*;
        match self {
            Self::Connect4 => BPF_CGROUP_INET4_CONNECT,
            Self::Connect6 => BPF_CGROUP_INET6_CONNECT,
            Self::Sendmsg4 => BPF_CGROUP_UDP4_SENDMSG,
            Self::Sendmsg6 => BPF_CGROUP_UDP6_SENDMSG,
            Self::Recvmsg4 => BPF_CGROUP_UDP4_RECVMSG,
            Self::Recvmsg6 => BPF_CGROUP_UDP6_RECVMSG,
            Self::Getpeername4 => BPF_CGROUP_INET4_GETPEERNAME,
            Self::Getpeername6 => BPF_CGROUP_INET6_GETPEERNAME,
        }
    }
}
