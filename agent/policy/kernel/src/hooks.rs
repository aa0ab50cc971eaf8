//! A node's programs at the interfaces of its pods. They outlive the agent: their links are pinned, and the next agent
//! exchanges the programs once its tables are filled. The flows are those of the former one, and are judged anew.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use mesh_layout::policy::FLOWS_LAYOUT;
use mesh_sys::Link;

use crate::{
    copy::{EGRESS, INGRESS, Sizes, Told, find, hash, load},
    error::KernelError,
    tables::Tables,
};

/// The programs of a node, and the interfaces at which they are: at the host's end of each pod's.
#[derive(Debug)]
pub struct Hooks {
    ebpf: Ebpf,
    interfaces: HashMap<MapData, u32, u32>,
    /// The folder with the links.
    links: PathBuf,
    /// By interface: the pod at which our programs are; `None`: those of an earlier run still are.
    attached: BTreeMap<u32, Option<u32>>,
}

/// The folder of links below that of policies.
const LINKS: &str = "links";

// === impl Hooks ===

impl Hooks {
    /// Loads the programs, with empty tables of a size and room for as many flows. Those of an earlier run stay where they
    /// are, as they are, until [`Hooks::attach`] or [`Hooks::detach`]. `folder` is on a BPF file system.
    ///
    /// # Errors
    /// The kernel refuses them, or does not have what they need (Linux 6.6); or the folder cannot be used.
    pub fn load(sizes: Sizes, flows: u32, folder: &Path) -> Result<(Self, Tables), KernelError> {
        let kept = folder.join(format!("flows-{FLOWS_LAYOUT}-{flows}"));
        let links = folder.join(LINKS);
        for folder in [&kept, &links] {
            fs::create_dir_all(folder).map_err(|source| pin_error(folder, source))?;
        }
        let (mut ebpf, tables) = load(sizes, flows, Told::Nothing, Some(&kept))?;
        let interfaces = hash(&mut ebpf, "cm_interfaces")?;
        let attached = pinned(&links)?.into_iter().map(|interface| (interface, None)).collect();
        Ok((Self { ebpf, interfaces, links, attached }, tables))
    }

    /// Takes away what an earlier run attached, and its flows.
    ///
    /// # Errors
    /// The folder cannot be removed.
    pub fn remove(folder: &Path) -> Result<(), KernelError> {
        match fs::remove_dir_all(folder) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(pin_error(folder, source))
            }
            _ => Ok(()),
        }
    }

    /// From now on packets of an interface are judged, by its index, as those of a pod by its number. Takes some ten
    /// milliseconds where no program was attached yet.
    pub fn attach(&mut self, interface: u32, endpoint: u32) -> Result<(), KernelError> {
        let present = self.attached.get(&interface).copied();
        if present == Some(Some(endpoint)) {
            return Ok(());
        }
        let map = |source| KernelError::Map { map: "cm_interfaces", source };
        self.interfaces.insert(interface, endpoint, 0).map_err(map)?;
        if !matches!(present, Some(Some(_))) {
            // What the pod sends arrives at the host's end, and what is sent to it leaves there.
            for program in [EGRESS, INGRESS] {
                self.link(program, interface)?;
            }
        }
        self.attached.insert(interface, Some(endpoint));
        Ok(())
    }

    /// Packets of an interface are no longer judged.
    pub fn detach(&mut self, interface: u32) -> Result<(), KernelError> {
        let Some(present) = self.attached.remove(&interface) else { return Ok(()) };
        for program in [EGRESS, INGRESS] {
            let pin = self.pin(program, interface);
            if let Ok(link) = Link::open(&pin) {
                // At once, and not when the kernel comes to it. Where the interface is gone, it is detached already.
                let _ = link.detach();
            }
            remove(&pin)?;
        }
        if present.is_none() {
            return Ok(());
        }
        let removed = self.interfaces.remove(&interface);
        removed.map_err(|source| KernelError::Map { map: "cm_interfaces", source })
    }

    /// The interfaces at which programs are, of this run or an earlier one.
    pub fn interfaces(&self) -> impl Iterator<Item = u32> {
        self.attached.keys().copied()
    }

    /// Attaches a program, or exchanges that of an earlier run for it.
    fn link(&mut self, program: &'static str, interface: u32) -> Result<(), KernelError> {
        let pin = self.pin(program, interface);
        let fd = find(&mut self.ebpf, program)?.fd();
        let fd = fd.map_err(|source| KernelError::Program { program, source })?;
        let error = |source| KernelError::Attach { program, interface, source };
        if let Ok(link) = Link::open(&pin) {
            if link.info().is_ok_and(|info| info.interface == interface) {
                return link.update(fd).map_err(error);
            }
            // Of an interface that is gone, whose index another one has now.
            remove(&pin)?;
        }
        let link = match program == EGRESS {
            true => Link::at_ingress(fd, interface),
            false => Link::at_egress(fd, interface),
        };
        link.and_then(|link| link.pin(&pin)).map_err(error)
    }

    fn pin(&self, program: &str, interface: u32) -> PathBuf {
        self.links.join(format!("{interface}-{program}"))
    }
}

/// The interfaces of which links are pinned.
fn pinned(folder: &Path) -> Result<Vec<u32>, KernelError> {
    let error = |source| pin_error(folder, source);
    let mut interfaces = Vec::new();
    for entry in fs::read_dir(folder).map_err(error)? {
        let name = entry.map_err(error)?.file_name();
        let index = name.to_str().and_then(|name| name.split_once('-')?.0.parse::<u32>().ok());
        interfaces.extend(index);
    }
    Ok(interfaces)
}

fn remove(pin: &Path) -> Result<(), KernelError> {
    match fs::remove_file(pin) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(pin_error(pin, source)),
        _ => Ok(()),
    }
}

fn pin_error(path: &Path, source: io::Error) -> KernelError {
    KernelError::Pin { path: path.into(), source }
}
