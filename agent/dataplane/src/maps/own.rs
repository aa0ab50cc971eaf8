//! The maps that are one loading's own and end with it.

use aya::maps::{HashMap, PerCpuArray};
use mesh_layout::COUNTERS;

use super::MapsError;

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
    let bypass = ebpf.map_mut(map).ok_or(MapsError::Missing(map))?;
    let mut bypass: HashMap<_, u64, u32> = HashMap::try_from(bypass).map_err(error)?;
    for cgroup in cgroups {
        bypass.insert(cgroup, 1, 0).map_err(error)?;
    }
    let found: Vec<u64> = bypass.keys().collect::<Result<_, _>>().map_err(error)?;
    for cgroup in found.iter().filter(|cgroup| !cgroups.contains(cgroup)) {
        bypass.remove(cgroup).map_err(error)?;
    }
    Ok(())
}
