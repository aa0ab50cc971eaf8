//! Which sockets got which backends, as the sockets themselves keep it.

use std::{
    io::{self, Read as _},
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{
    Btf, BtfError, Ebpf,
    maps::Map,
    programs::{Iter, ProgramError},
};
use mesh_layout::ListedSocket;

use crate::{maps::MapsError, programs::ProgramsError};

/// The program that lists sockets, and the map in whose storage they keep what is listed.
#[derive(Debug)]
pub struct SocketList {
    program: OwnedFd,
    map: OwnedFd,
}

const MAP: &str = "cm_sockets";
/// How the kernel calls an iterator over what sockets keep.
const ITERATOR: &str = "bpf_sk_storage_map";

impl SocketList {
    /// The program's name.
    pub(crate) const PROGRAM: &str = "cm_list_sockets";

    /// Takes both out of a loaded object.
    pub(crate) fn load(
        ebpf: &mut Ebpf,
        types: Result<Btf, BtfError>,
    ) -> Result<Self, ProgramsError> {
        let error = |source| ProgramsError::Program { program: Self::PROGRAM, source };
        let Some(Map::SkStorage(map)) = ebpf.map(MAP) else {
            return Err(MapsError::Missing(MAP).into());
        };
        let map = map.fd().as_fd().try_clone_to_owned();
        let map = map.map_err(|source| MapsError::Memory { map: MAP, source })?;
        let program =
            ebpf.program_mut(Self::PROGRAM).ok_or(ProgramsError::Missing(Self::PROGRAM))?;
        let program: &mut Iter = program.try_into().map_err(error)?;
        let types = types.map_err(|source| error(ProgramError::Btf(source)))?;
        program.load(ITERATOR, &types).map_err(error)?;
        let fd = program.fd().map_err(error)?.as_fd().try_clone_to_owned();
        let program =
            fd.map_err(|source| ProgramsError::Io { path: Self::PROGRAM.into(), source })?;
        Ok(Self { program, map })
    }

    /// All sockets that ever connected to a backend and are still there, of all network namespaces.
    pub fn read(&self) -> io::Result<Vec<ListedSocket>> {
        let mut bytes = Vec::new();
        mesh_sys::iterate(&self.program, &self.map)?.read_to_end(&mut bytes)?;
        Ok(bytes.as_chunks().0.iter().map(ListedSocket::from_bytes).collect())
    }
}
