//! The programs' counters, and the cgroups and pods whose sockets they do not balance.

use aya::maps::{Array, PerCpuArray};
use mesh_layout::{COUNTERS, default_sizes::BYPASSED};

use crate::error::MapsError;

/// The programs' counters, added up over the processors.
pub(crate) fn counters(ebpf: &aya::Ebpf) -> Result<[u64; COUNTERS], MapsError> {
    let map = "cm_counters";
    let error = |source| MapsError::Map { map, source };
    let counters = ebpf.map(map).ok_or(MapsError::Missing(map))?;
    let counters: PerCpuArray<_, u64> = PerCpuArray::try_from(counters).map_err(error)?;
    let mut sums = [0; COUNTERS];
    for (index, sum) in (0..).zip(&mut sums) {
        *sum = counters.get(&index, 0).map_err(error)?.iter().sum();
    }
    Ok(sums)
}

/// Lets the sockets of these cgroups pass untouched, and of no others.
pub(crate) fn set_bypass(ebpf: &mut aya::Ebpf, cgroups: &[u64]) -> Result<(), MapsError> {
    let map = "cm_bypass";
    let error = |source| MapsError::Map { map, source };
    let found = ebpf.map_mut(map).ok_or(MapsError::Missing(map))?;
    let mut bypass: Array<_, [u64; BYPASSED]> = Array::try_from(found).map_err(error)?;
    let mut ids = [0; BYPASSED];
    if cgroups.len() > ids.len() {
        return Err(MapsError::TooMany { map, count: cgroups.len(), size: ids.len() });
    }
    ids.iter_mut().zip(cgroups).for_each(|(id, cgroup)| *id = *cgroup);
    bypass.set(0, ids, 0).map_err(error)
}
