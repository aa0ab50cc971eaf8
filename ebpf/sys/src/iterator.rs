//! Reads what a program writes about each object of a kind: the kernel's iterators.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
};

use aya_obj::generated::{
    bpf_attach_type::BPF_TRACE_ITER,
    bpf_cmd::{BPF_ITER_CREATE, BPF_LINK_CREATE},
};

use crate::{bpf, new_descriptor, word, zeroed_attr};

/// An iterator over all objects of the kind that its program is for, to be read again and again.
#[derive(Debug)]
pub struct Iterator {
    link: OwnedFd,
}

impl Iterator {
    /// The iterator that runs a loaded program.
    pub fn new(program: impl AsFd) -> io::Result<Self> {
        let mut attr = zeroed_attr();
        attr.link_create.__bindgen_anon_1.prog_fd = word(program.as_fd().as_raw_fd())?;
        attr.link_create.attach_type = BPF_TRACE_ITER as u32;
        // SAFETY: the attribute holds a descriptor and no pointer.
        let link = new_descriptor(unsafe { bpf(BPF_LINK_CREATE, &mut attr) }?)?;
        Ok(Self { link })
    }

    /// A file with what the program writes about the objects, as they are when it is read. For sockets, those of the
    /// calling thread's network namespace.
    pub fn open(&self) -> io::Result<File> {
        let mut attr = zeroed_attr();
        attr.iter_create.link_fd = word(self.link.as_raw_fd())?;
        // SAFETY: the attribute holds a descriptor and no pointer.
        Ok(File::from(new_descriptor(unsafe { bpf(BPF_ITER_CREATE, &mut attr) }?)?))
    }
}
