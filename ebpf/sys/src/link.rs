//! A link: it holds a program at its hook, and outlives the process that made it where it is pinned.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    path::Path,
};

use aya_obj::generated::{
    BPF_F_BEFORE, bpf_attach_type,
    bpf_attach_type::{BPF_TCX_EGRESS, BPF_TCX_INGRESS},
    bpf_cmd::{BPF_LINK_CREATE, BPF_LINK_DETACH, BPF_LINK_UPDATE},
    bpf_link_info,
};

use crate::{bpf, new_descriptor, read_info, word, zeroed_attr};

/// A link, made or opened by its pin.
#[derive(Debug)]
pub struct Link {
    fd: OwnedFd,
}

/// Where a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// It identifies the link until the next boot.
    pub id: u32,
    /// The id of its program.
    pub program: u32,
    /// The cgroup that a cgroup's link is at; 0 once that is gone, or the link was detached. Meaningless for another kind.
    pub cgroup: u64,
    /// The index of the interface that a TCX link is at; 0 once that is gone, or the link was detached. Meaningless for
    /// another kind.
    pub interface: u32,
}

// === impl Link ===

impl Link {
    /// Opens the pin.
    pub fn open(pin: &Path) -> io::Result<Self> {
        Ok(Self { fd: crate::open(pin)? })
    }

    /// Attaches a program at the ingress of an interface, by its index, before all programs that are there.
    pub fn at_ingress(program: impl AsFd, interface: u32) -> io::Result<Self> {
        Self::at(program, interface, BPF_TCX_INGRESS)
    }

    /// Attaches a program at the egress of an interface, by its index, before all programs that are there.
    pub fn at_egress(program: impl AsFd, interface: u32) -> io::Result<Self> {
        Self::at(program, interface, BPF_TCX_EGRESS)
    }

    fn at(program: impl AsFd, interface: u32, hook: bpf_attach_type) -> io::Result<Self> {
        let mut attr = zeroed_attr();
        attr.link_create.__bindgen_anon_1.prog_fd = word(program.as_fd().as_raw_fd())?;
        attr.link_create.__bindgen_anon_2.target_ifindex = interface;
        attr.link_create.attach_type = hook as u32;
        attr.link_create.flags = BPF_F_BEFORE;
        // SAFETY: the attribute holds a descriptor and no pointer.
        Ok(Self { fd: new_descriptor(unsafe { bpf(BPF_LINK_CREATE, &mut attr) }?)? })
    }

    /// Pins it.
    pub fn pin(&self, path: &Path) -> io::Result<()> {
        crate::pin(&self.fd, path)
    }

    /// Detaches its program from its hook, immediately. The link stays, of no use.
    pub fn detach(&self) -> io::Result<()> {
        let mut attr = zeroed_attr();
        attr.link_detach.link_fd = word(self.fd.as_raw_fd())?;
        // SAFETY: the attribute holds a descriptor and no pointer.
        unsafe { bpf(BPF_LINK_DETACH, &mut attr) }.map(|_| ())
    }

    /// Replaces the program of the link by `program`. No call in between goes without a program.
    pub fn update(&self, program: impl AsFd) -> io::Result<()> {
        let mut attr = zeroed_attr();
        attr.link_update.link_fd = word(self.fd.as_raw_fd())?;
        attr.link_update.__bindgen_anon_1.new_prog_fd = word(program.as_fd().as_raw_fd())?;
        // SAFETY: the attribute holds two descriptors and no pointer.
        unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }.map(|_| ())
    }

    /// Where it is, and what it runs.
    pub fn info(&self) -> io::Result<LinkInfo> {
        // SAFETY: a struct of plain integers; all zeros is a value.
        let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
        // SAFETY: a `bpf_link_info` for a link, without pointers in it.
        unsafe { read_info(self.fd.as_raw_fd(), &mut info) }?;
        // SAFETY: plain integers, written by the kernel for a link of that kind, and some other integer else.
        let (cgroup, interface) =
            unsafe { (info.__bindgen_anon_1.cgroup.cgroup_id, info.__bindgen_anon_1.tcx.ifindex) };
        Ok(LinkInfo { id: info.id, program: info.prog_id, cgroup, interface })
    }
}
