//! NUMA nodes: which cores and network interfaces are on which, and where memory is taken from.
//!
//! A machine of several *nodes* has memory that is near to some of its cores and to some of its
//! cards, and farther from the others. [`Topology`] is read from sysfs once; on a machine of one
//! node it says nothing, and nothing changes.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use crate::socket::interfaces_at;

#[cfg(test)]
mod tests;

/// Nodes that there can be: the kernel's MAX_NUMNODES is 2^10 at most (CONFIG_NODES_SHIFT).
const MAX_NODES: u32 = 1 << 10;

/// Cores of a list that are believed in: the kernel's NR_CPUS is 8,192 at most.
const MAX_CORES: usize = 1 << 13;

/// How many interfaces one may be built on: a VLAN of a bridge of a bond of a card.
const MAX_LAYERS: usize = 4;

/// Where a worker is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoreOfNode {
    /// The core to stay on.
    pub core: usize,
    /// The node whose memory is near. `None`: there is only one, or none is known.
    pub node: Option<u32>,
}

/// The nodes of this machine that have cores.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Topology {
    /// By number: its cores that are online.
    nodes: Vec<(u32, Vec<usize>)>,
}

impl Topology {
    /// As the kernel tells it. Empty where it tells nothing (no NUMA, no sysfs).
    pub fn read() -> Topology {
        Topology::read_at(Path::new("/sys"))
    }

    fn read_at(sys: &Path) -> Topology {
        let names = std::fs::read_dir(sys.join("devices/system/node"));
        let names = names.into_iter().flatten().flatten();
        let mut nodes: Vec<(u32, Vec<usize>)> = names
            .filter_map(|entry| {
                let name = entry.file_name();
                let node = name.to_str()?.strip_prefix("node")?.parse().ok()?;
                let list = std::fs::read_to_string(entry.path().join("cpulist")).ok()?;
                let cores = cores_of(&list)?;
                // A node without cores is memory that no thread is near to.
                (node < MAX_NODES && !cores.is_empty()).then_some((node, cores))
            })
            .collect();
        nodes.sort_unstable();
        Topology { nodes }
    }

    /// Whether it matters where something is.
    pub fn has_several_nodes(&self) -> bool {
        self.nodes.len() > 1
    }

    fn node_of(&self, core: usize) -> Option<u32> {
        let mut nodes = self.nodes.iter().filter(|_| self.has_several_nodes());
        nodes
            .find(|(_, cores)| cores.contains(&core))
            .map(|(node, _)| *node)
    }

    /// These cores, those on one of the nodes `near` before the others and otherwise in their
    /// order, and the node of each.
    pub fn places(&self, cores: &[usize], near: &BTreeSet<u32>) -> Vec<CoreOfNode> {
        let place = |&core: &usize| CoreOfNode {
            core,
            node: self.node_of(core),
        };
        let mut places: Vec<CoreOfNode> = cores.iter().map(place).collect();
        places.sort_by_key(|place| !place.node.is_some_and(|node| near.contains(&node)));
        places
    }

    /// The nodes of the cards that packets to these addresses of ours come in by. Empty where it
    /// does not matter or no card says. On a machine of several nodes it costs a netlink dump for
    /// each.
    pub fn near(&self, listen: impl IntoIterator<Item = IpAddr>) -> BTreeSet<u32> {
        if !self.has_several_nodes() {
            return BTreeSet::new();
        }
        let names: BTreeSet<String> = listen.into_iter().flat_map(interfaces_at).collect();
        nodes_of(Path::new("/sys"), names)
    }
}

/// The nodes that these interfaces, or what they are built on, are attached to.
fn nodes_of(sys: &Path, names: BTreeSet<String>) -> BTreeSet<u32> {
    let (mut nodes, mut layer) = (BTreeSet::new(), names);
    for _ in 0..MAX_LAYERS {
        let mut below = BTreeSet::new();
        for name in &layer {
            let interface = sys.join("class/net").join(name);
            match node_of(&interface) {
                Some(node) => {
                    nodes.insert(node);
                }
                None => below.extend(lower(&interface)),
            }
        }
        layer = below;
    }
    nodes
}

fn node_of(interface: &Path) -> Option<u32> {
    // A virtio card is a device of a bus of its own, and what it is plugged into has the node.
    ["device/numa_node", "device/../numa_node"]
        .iter()
        // -1: no node.
        .find_map(|file| {
            let node = std::fs::read_to_string(interface.join(file)).ok()?;
            node.trim().parse().ok().filter(|node| *node < MAX_NODES)
        })
}

/// What an interface is built on: a bond on its cards, a VLAN on its card.
fn lower(interface: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(interface).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter_map(|name| Some(name.strip_prefix("lower_")?.to_owned()))
        .collect()
}

/// The cores of a list as the kernel writes it: `0-3,8`. `None`: it is none.
fn cores_of(list: &str) -> Option<Vec<usize>> {
    let mut cores = Vec::new();
    for range in list.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= MAX_CORES {
            return None;
        }
        cores.extend(first..=last);
    }
    Some(cores)
}

/// What rules where a thread takes its memory from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryFrom {
    /// The node that was asked for.
    Node,
    /// A policy that the process was started with (`numactl`, or `NUMAPolicy=` of a unit). Who set
    /// it knows better.
    PolicyOfBefore,
}

/// The node whose core the calling thread is on at this moment; one that is not pinned may be on
/// another soon. `None`: the kernel does not say (a sandbox that forbids `getcpu`).
pub fn current_node() -> Option<u32> {
    let (mut core, mut node) = (0 as libc::c_uint, 0 as libc::c_uint);
    // SAFETY: getcpu(2) writes one number to each of both addresses, and keeps neither; the third
    // argument is unused since Linux 2.6.24.
    let result = unsafe {
        libc::syscall(
            libc::SYS_getcpu,
            &raw mut core,
            &raw mut node,
            std::ptr::null_mut::<libc::c_void>(),
        )
    };
    (result == 0).then_some(node)
}

/// Has the calling thread, and the threads that it starts from now on, take memory from this node
/// as long as that has some, unless it has a policy already. Pages that are there stay where they
/// are.
///
/// # Errors
/// `EPERM` or `ENOSYS` where a sandbox or the kernel has not the calls; `EINVAL` for a node that
/// this process may take nothing from (cpuset.mems). The policy is then as it was.
pub fn prefer(node: u32) -> io::Result<MemoryFrom> {
    if policy()? != libc::MPOL_DEFAULT {
        return Ok(MemoryFrom::PolicyOfBefore);
    }
    set_policy(libc::MPOL_PREFERRED, node)?;
    Ok(MemoryFrom::Node)
}

/// Why [`prefer`] failed, and what to do.
pub fn why_not_preferred(error: &io::Error) -> String {
    let cause = match error.raw_os_error() {
        Some(libc::EINVAL) => {
            "does its cpuset leave the node out (cpuset.mems, AllowedMemoryNodes= of a unit), or \
             has the node no memory?"
        }
        Some(libc::ENOSYS) => "has the kernel no NUMA policies (CONFIG_NUMA), or a sandbox?",
        _ => {
            "does a sandbox forbid get_mempolicy or set_mempolicy (SystemCallFilter= of a unit, \
             seccomp of a container)?"
        }
    };
    format!("{error}; {cause}")
}

/// The mode of the calling thread's policy, with its flags.
fn policy() -> io::Result<libc::c_int> {
    let mut mode: libc::c_int = 0;
    // SAFETY: get_mempolicy(2) without flags writes the mode, a c_int that is ours, and no nodes
    // where the pointer to these is null.
    let result = unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            &raw mut mode,
            std::ptr::null_mut::<libc::c_ulong>(),
            0,
            0,
            0,
        )
    };
    match result {
        0 => Ok(mode),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set_policy(mode: libc::c_int, node: u32) -> io::Result<()> {
    const BITS: usize = libc::c_ulong::BITS as usize;
    let mut mask = [0 as libc::c_ulong; MAX_NODES as usize / BITS];
    let word = mask.get_mut(node as usize / BITS);
    *word.ok_or(io::ErrorKind::InvalidInput)? |= 1 << (node as usize % BITS);
    // The kernel reads one bit less than it is told of (get_nodes in mm/mempolicy.c).
    let bits = mask.len() * BITS + 1;
    // SAFETY: set_mempolicy(2) reads as many words as `bits` has, all of which `mask` has but for
    // the bit that it does not read, and keeps no pointer.
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask.as_ptr(), bits) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
