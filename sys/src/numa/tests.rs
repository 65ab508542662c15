//! Topologies of machines that are not at hand, as directories that look like sysfs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;

struct Sys(tempfile::TempDir);

impl Sys {
    fn new(nodes: &[(&str, &str)]) -> Sys {
        let sys = Sys(tempfile::tempdir().unwrap());
        for (node, cpulist) in nodes {
            let dir = sys.path("devices/system/node").join(node);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("cpulist"), cpulist).unwrap();
        }
        sys
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.path().join(below)
    }

    /// A card as sysfs shows it: a link to its device, whose directory has the node.
    fn card(&self, name: &str, node: &str) {
        let device = self.path("devices/pci").join(name);
        let interface = self.path("class/net").join(name);
        fs::create_dir_all(&device).unwrap();
        fs::create_dir_all(&interface).unwrap();
        fs::write(device.join("numa_node"), node).unwrap();
        symlink(device, interface.join("device")).unwrap();
    }

    /// A virtio card: its device has no node, the one above has.
    fn virtio(&self, name: &str, node: &str) {
        let above = self.path("devices/pci").join(name);
        let interface = self.path("class/net").join(name);
        fs::create_dir_all(above.join("virtio0")).unwrap();
        fs::create_dir_all(&interface).unwrap();
        fs::write(above.join("numa_node"), node).unwrap();
        symlink(above.join("virtio0"), interface.join("device")).unwrap();
    }

    fn built_on(&self, name: &str, lower: &[&str]) {
        let interface = self.path("class/net").join(name);
        fs::create_dir_all(&interface).unwrap();
        for lower in lower {
            let link = interface.join(format!("lower_{lower}"));
            symlink(format!("../{lower}"), link).unwrap();
        }
    }

    fn topology(&self) -> Topology {
        Topology::read_at(self.0.path())
    }

    fn near(&self, name: &str) -> Vec<u32> {
        let nodes = nodes_of(self.0.path(), BTreeSet::from([name.to_owned()]));
        nodes.into_iter().collect()
    }

    /// Cores in the order in which workers get them, with their nodes.
    fn places(&self, cores: &[usize], card: &str) -> Vec<(usize, Option<u32>)> {
        let near = self.near(card).into_iter().collect();
        let places = self.topology().places(cores, &near);
        places
            .iter()
            .map(|place| (place.core, place.node))
            .collect()
    }
}

#[test]
fn on_one_node_cores_are_as_they_were_and_have_no_node() {
    for sys in [Sys::new(&[("node0", "0-3\n")]), Sys::new(&[])] {
        sys.card("eth0", "0\n");
        assert!(!sys.topology().has_several_nodes());
        let places = sys.places(&[0, 1, 3], "eth0");
        assert_eq!(places, [(0, None), (1, None), (3, None)]);
    }
    let one = Sys::new(&[("node0", "0-3\n")]).topology();
    assert!(one.near([IpAddr::from([0, 0, 0, 0])]).is_empty());
}

#[test]
fn cores_of_the_cards_node_come_first() {
    let sys = Sys::new(&[("node1", "2-3,6-7\n"), ("node0", "0-1,4-5\n")]);
    sys.card("eth0", "0\n");
    sys.card("eth1", "1\n");
    let all: Vec<usize> = (0..8).collect();
    let cores = |card: &str| -> Vec<usize> {
        let places = sys.places(&all, card);
        places.into_iter().map(|(core, _)| core).collect()
    };
    assert_eq!(cores("eth0"), [0, 1, 4, 5, 2, 3, 6, 7]);
    assert_eq!(cores("eth1"), [2, 3, 6, 7, 0, 1, 4, 5]);
    assert_eq!(sys.places(&[0, 7], "eth1"), [(7, Some(1)), (0, Some(0))]);
}

#[test]
fn cards_of_no_node_change_no_order() {
    let sys = Sys::new(&[("node0", "0"), ("node1", "1")]);
    sys.card("minus", "-1\n");
    sys.virtio("virtual", "-1\n");
    sys.built_on("veth", &[]);
    for card in ["minus", "virtual", "veth", "none", "lo"] {
        let places = sys.places(&[0, 1], card);
        assert_eq!(places, [(0, Some(0)), (1, Some(1))], "{card}");
    }
}

#[test]
fn a_virtio_card_is_where_it_is_plugged_in() {
    let sys = Sys::new(&[("node0", "0"), ("node1", "1")]);
    sys.virtio("eth0", "1\n");
    assert_eq!(sys.near("eth0"), [1]);
}

#[test]
fn what_is_built_on_cards_is_where_they_are() {
    let sys = Sys::new(&[("node0", "0"), ("node1", "1")]);
    sys.card("eth0", "0");
    sys.card("eth1", "1");
    sys.built_on("bond0", &["eth0", "eth1"]);
    sys.built_on("bond0.7", &["bond0"]);
    sys.built_on("vlan9", &["eth1"]);
    assert_eq!(sys.near("bond0.7"), [0, 1]);
    assert_eq!(sys.near("vlan9"), [1]);
    sys.built_on("around", &["around"]);
    assert!(sys.near("around").is_empty(), "and it ends");
}

/// The kernel lists cores that are online; what a cpuset leaves is what the process was given.
#[test]
fn cores_that_are_offline_or_not_ours_are_not_used() {
    let sys = Sys::new(&[("node0", "0,2\n"), ("node1", "5-6\n")]);
    sys.card("eth1", "1\n");
    assert_eq!(sys.places(&[2, 6], "eth1"), [(6, Some(1)), (2, Some(0))]);
    // It came online meanwhile: nothing is known of it.
    assert_eq!(sys.places(&[2, 4], "eth1"), [(2, Some(0)), (4, None)]);
}

#[test]
fn memory_without_cores_is_no_second_node() {
    let sys = Sys::new(&[("node0", "0-1\n"), ("node2", "\n")]);
    assert!(!sys.topology().has_several_nodes());
}

#[test]
fn garbage_is_nothing() {
    let sys = Sys::new(&[
        ("node0", "0-x\n"),
        ("node1", "0-99999999999\n"),
        ("node2", "-\n"),
        ("node4096", "1\n"),
        ("nodes", "1\n"),
        ("power", "1\n"),
        ("node3", "7-5\n"),
        ("node5", "18446744073709551616\n"),
    ]);
    fs::create_dir_all(sys.path("devices/system/node/node6")).unwrap();
    fs::write(sys.path("devices/system/node/possible"), "0-1\n").unwrap();
    assert_eq!(sys.topology(), Topology::default());
    for node in ["", "x", "4096", "99999999999999999999", "\u{0}"] {
        let sys = Sys::new(&[]);
        sys.card("eth0", node);
        assert!(sys.near("eth0").is_empty(), "{node:?}");
    }
}

#[test]
fn this_machine_says_something_or_nothing() {
    let (topology, cores) = (Topology::read(), crate::cpu::cores().unwrap());
    let near = topology.near([IpAddr::from([127, 0, 0, 1])]);
    assert!(near.is_empty(), "{near:?}");
    let places = topology.places(&cores, &near);
    let same: Vec<usize> = places.iter().map(|place| place.core).collect();
    assert_eq!(same, cores);
}

/// Node 0 is there on nearly every machine; where it is not, or a sandbox forbids it, it is an
/// error and nothing else.
#[test]
fn a_thread_prefers_a_node() {
    std::thread::spawn(|| {
        if let Err(error) = prefer(0) {
            let known = [libc::EPERM, libc::EINVAL, libc::ENOSYS];
            assert!(known.contains(&error.raw_os_error().unwrap()), "{error}");
            return;
        }
        let (mut mode, mut mask) = (0i32, [0 as libc::c_ulong; 16]);
        // SAFETY: get_mempolicy(2) writes the mode and as many words as `mask` has.
        let result = unsafe {
            libc::syscall(
                libc::SYS_get_mempolicy,
                &raw mut mode,
                mask.as_mut_ptr(),
                mask.len() * libc::c_ulong::BITS as usize,
                0,
                0,
            )
        };
        assert_eq!(result, 0);
        assert_eq!((mode, mask[0]), (libc::MPOL_PREFERRED, 1));
    })
    .join()
    .unwrap();
    assert!(prefer(MAX_NODES - 1).is_err());
    assert!(prefer(MAX_NODES).is_err());
}

#[test]
fn a_policy_that_was_there_is_left_alone() {
    std::thread::spawn(|| {
        for mode in [libc::MPOL_INTERLEAVE, libc::MPOL_BIND] {
            if let Err(error) = set_policy(mode, 0) {
                let known = [libc::EPERM, libc::EINVAL, libc::ENOSYS];
                assert!(known.contains(&error.raw_os_error().unwrap()), "{error}");
                return;
            }
            assert_eq!(prefer(0).unwrap(), MemoryFrom::PolicyOfBefore);
            assert_eq!(policy().unwrap(), mode);
            // Threads that it starts take after it.
            let below = std::thread::spawn(|| (prefer(0).unwrap(), policy().unwrap()));
            let below = below.join().unwrap();
            assert_eq!(below, (MemoryFrom::PolicyOfBefore, mode));
        }
    })
    .join()
    .unwrap();
}

#[test]
fn a_failure_names_its_own_cause() {
    let why = |error| why_not_preferred(&io::Error::from_raw_os_error(error));
    assert!(why(libc::EINVAL).contains("cpuset.mems"));
    assert!(!why(libc::EINVAL).contains("sandbox"));
    assert!(why(libc::EPERM).contains("set_mempolicy"));
    assert!(why(libc::ENOSYS).contains("CONFIG_NUMA"));
}

#[test]
fn a_thread_is_on_a_node_that_there_is() {
    let Some(node) = current_node() else {
        return;
    };
    let nodes = std::path::Path::new("/sys/devices/system/node");
    assert!(
        node == 0 || nodes.join(format!("node{node}")).exists(),
        "{node}"
    );
}
