//! An array map as memory.

use std::{
    io,
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64},
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// The memory of an array map created with `BPF_F_MMAPABLE`: writing an element costs a store, not a system call, and
/// the store is seen by programs as it is made.
///
/// The kernel rounds each element up to eight bytes, so every element is a row of whole words.
#[derive(Debug)]
pub struct MmapArray {
    memory: NonNull<libc::c_void>,
    bytes: usize,
    stride: usize,
    entries: usize,
}

// SAFETY: the memory is only reached through atomics, and stays mapped until the value is dropped.
unsafe impl Send for MmapArray {}
// SAFETY: as above.
unsafe impl Sync for MmapArray {}

impl MmapArray {
    /// Maps the array behind `map`, which has `entries` elements of `value_size` bytes.
    pub fn new(map: impl AsFd, entries: u32, value_size: usize) -> io::Result<Self> {
        let entries = usize::try_from(entries).map_err(io::Error::other)?;
        let stride = value_size.next_multiple_of(8);
        let bytes = NonZeroUsize::new(entries * stride).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new shared mapping at an address of the kernel's choice touches no other memory.
        let memory = unsafe {
            mmap(
                None,
                bytes,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                map,
                0,
            )
        }?;
        Ok(Self { memory, bytes: bytes.get(), stride, entries })
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether there are none; the kernel makes no such array.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// The `word`th four bytes of an element; `None` outside the array.
    pub fn u32(&self, index: u32, word: usize) -> Option<&AtomicU32> {
        let at = self.offset(index, word * 4, 4)?;
        // SAFETY: `offset` lies in the mapping with the whole word and is a multiple of its size, and the mapping is
        // aligned to a page. The memory is shared with the kernel, which reads and writes it as words too.
        Some(unsafe { self.memory.cast::<u8>().add(at).cast::<AtomicU32>().as_ref() })
    }

    /// The `word`th eight bytes of an element; `None` outside the array.
    pub fn u64(&self, index: u32, word: usize) -> Option<&AtomicU64> {
        let at = self.offset(index, word * 8, 8)?;
        // SAFETY: as in `u32`.
        Some(unsafe { self.memory.cast::<u8>().add(at).cast::<AtomicU64>().as_ref() })
    }

    fn offset(&self, index: u32, within: usize, size: usize) -> Option<usize> {
        let index = usize::try_from(index).ok()?;
        (index < self.entries && within + size <= self.stride)
            .then_some(index * self.stride + within)
    }
}

impl Drop for MmapArray {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing borrowed from it outlives it.
        let _ = unsafe { munmap(self.memory, self.bytes) };
    }
}
