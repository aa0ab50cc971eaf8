//! Reading and writing many entries of a hash map in one system call: three to eight times cheaper than one by one.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

use aya::Pod;
use aya_obj::generated::bpf_cmd::{BPF_MAP_LOOKUP_BATCH, BPF_MAP_UPDATE_BATCH};

use crate::{bpf, zeroed_attr};

/// Entries a call, at first. A hash bucket that is longer asks for more.
const CHUNK: usize = 4_096;

/// All entries of a hash map, in no order. What is written meanwhile may be there, missing or doubled.
pub fn lookup_all<K: Pod, V: Pod>(map: impl AsFd) -> io::Result<Vec<(K, V)>> {
    let fd = map.as_fd().as_raw_fd();
    let mut all = Vec::new();
    let mut chunk = CHUNK;
    let (mut position, mut next) = (0u64, 0u64);
    let mut first = true;
    loop {
        let mut keys: Vec<K> = Vec::with_capacity(chunk);
        let mut values: Vec<V> = Vec::with_capacity(chunk);
        let mut attr = zeroed_attr();
        attr.batch.map_fd = u32::try_from(fd).map_err(io::Error::other)?;
        attr.batch.in_batch = if first { 0 } else { (&raw mut position) as u64 };
        attr.batch.out_batch = (&raw mut next) as u64;
        attr.batch.keys = keys.as_mut_ptr() as u64;
        attr.batch.values = values.as_mut_ptr() as u64;
        attr.batch.count = u32::try_from(chunk).map_err(io::Error::other)?;
        // SAFETY: keys and values have room for `count` entries of the map's sizes (the caller's `K` and `V`, which
        // the map was checked against when it was opened); the positions are of this frame and at least as wide as
        // the kernel's.
        let result = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) };
        let done = match result {
            Ok(_) => false,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => {
                chunk *= 2;
                continue;
            }
            Err(e) => return Err(e),
        };
        // SAFETY: a plain integer of the same union member.
        let count = unsafe { attr.batch.count };
        let count = usize::try_from(count).map_err(io::Error::other)?.min(chunk);
        // SAFETY: the kernel filled `count` entries, and any bytes are a `Pod` value.
        unsafe {
            keys.set_len(count);
            values.set_len(count);
        }
        all.extend(keys.into_iter().zip(values));
        if done {
            return Ok(all);
        }
        position = next;
        first = false;
    }
}

/// Writes entries into a hash map, replacing those that are there. On an error an unknown part of them is written.
pub fn update_all<K: Pod, V: Pod>(map: impl AsFd, entries: &[(K, V)]) -> io::Result<()> {
    let fd = map.as_fd().as_raw_fd();
    for chunk in entries.chunks(CHUNK) {
        let (keys, values): (Vec<K>, Vec<V>) = chunk.iter().copied().unzip();
        let mut attr = zeroed_attr();
        attr.batch.map_fd = u32::try_from(fd).map_err(io::Error::other)?;
        attr.batch.keys = keys.as_ptr() as u64;
        attr.batch.values = values.as_ptr() as u64;
        attr.batch.count = u32::try_from(chunk.len()).map_err(io::Error::other)?;
        // SAFETY: keys and values hold `count` entries of the map's sizes, as above.
        unsafe { bpf(BPF_MAP_UPDATE_BATCH, &mut attr) }?;
    }
    Ok(())
}
