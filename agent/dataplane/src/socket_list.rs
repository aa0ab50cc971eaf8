//! Which sockets got which backends, from the sockets' own storage.

use std::io::{self, Read as _};

use aya::{
    Btf, BtfError, Ebpf,
    programs::{Iter, ProgramError},
};
use mesh_layout::ListedSocket;
use mesh_model::Protocol;
use mesh_sys::Iterator;

use crate::error::ProgramsError;

/// The programs that list a network namespace's sockets.
#[derive(Debug)]
pub struct SocketList {
    tcp: Iterator,
    udp: Iterator,
}

impl SocketList {
    const TCP: &str = "cm_list_tcp";
    const UDP: &str = "cm_list_udp";

    /// Loads the programs of an object.
    pub(crate) fn load(
        ebpf: &mut Ebpf,
        types: Result<Btf, BtfError>,
    ) -> Result<Self, ProgramsError> {
        let error = |source| ProgramsError::Program { program: Self::TCP, source };
        let types = types.map_err(|source| error(ProgramError::Btf(source)))?;
        let mut iterator = |program, kind: &str| {
            let error = |source| ProgramsError::Program { program, source };
            let found = ebpf.program_mut(program).ok_or(ProgramsError::Missing(program))?;
            let found: &mut Iter = found.try_into().map_err(error)?;
            found.load(kind, &types).map_err(error)?;
            Iterator::new(found.fd().map_err(error)?)
                .map_err(|source| ProgramsError::Io { path: program.into(), source })
        };
        Ok(Self { tcp: iterator(Self::TCP, "tcp")?, udp: iterator(Self::UDP, "udp")? })
    }

    /// The sockets of the calling thread's network namespace that connected to a backend over a protocol and still
    /// exist. Costs a walk through all of that namespace's sockets.
    pub fn read(&self, protocol: Protocol) -> io::Result<Vec<ListedSocket>> {
        let iterator = match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
            // Such sockets are none of ours.
            Protocol::Sctp => return Ok(Vec::new()),
        };
        let mut bytes = Vec::new();
        iterator.open()?.read_to_end(&mut bytes)?;
        Ok(bytes.as_chunks().0.iter().map(ListedSocket::from_bytes).collect())
    }
}
