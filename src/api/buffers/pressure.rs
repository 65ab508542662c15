//! How short memory is, as the kernel tells this process: by stalls (PSI), else by how full its
//! cgroup is.
#![deny(missing_docs)]

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Where cgroups of version 2 are mounted: alone, or beside those of version 1 (systemd calls that
/// hybrid).
const CGROUP_MOUNTS: [&str; 2] = ["sys/fs/cgroup", "sys/fs/cgroup/unified"];

/// Cgroups looked at, from the own one up. systemd and Kubernetes nest some ten.
const MAX_LEVELS: usize = 32;

/// What is read of a file. The longest, memory.stat, is 2 to 3 kB; a path is 4 KiB at most.
const MAX_TEXT_BYTES: u64 = 64 << 10;

/// Share of the last 10 s in which some task waited for memory, from which on memory is short.
/// systemd asks services to give memory back from the same on: 200 ms of 2 s
/// (MemoryPressureThresholdSec=).
const STALLED_PERCENT: f64 = 10.0;

/// Share of a cgroup's limit in use from which on memory is short. What of it are pages of files
/// that the kernel drops at once does not count.
const FILLED_PERCENT: f64 = 90.0;

/// How short memory is, and who says so: the first of these that can be read.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum MemoryPressure {
    /// No source can be read, or none was looked at yet.
    #[default]
    Unknown,
    /// `memory.pressure` of the own cgroup (version 2).
    CgroupStall {
        /// Percent of the last 10 s in which some task waited for memory.
        some_avg10_percent: f64,
    },
    /// `/proc/pressure/memory`, which is of the whole system.
    SystemStall {
        /// Percent of the last 10 s in which some task waited for memory.
        some_avg10_percent: f64,
    },
    /// `memory.current` of the own cgroup (version 2), or one around it, against the lower of
    /// `memory.high` and `memory.max`, where the kernel has no PSI (`psi=0`).
    CgroupFill {
        /// Percent of the limit that are in use, of the fullest cgroup; `inactive_file` of
        /// `memory.stat` does not count.
        filled_percent: f64,
    },
}

impl MemoryPressure {
    /// Whether memory is short: stalls in 10 % of the time, or a cgroup that is full to 90 %.
    pub fn is_high(self) -> bool {
        match self {
            MemoryPressure::Unknown => false,
            MemoryPressure::CgroupStall { some_avg10_percent }
            | MemoryPressure::SystemStall { some_avg10_percent } => {
                some_avg10_percent >= STALLED_PERCENT
            }
            MemoryPressure::CgroupFill { filled_percent } => filled_percent >= FILLED_PERCENT,
        }
    }

    /// Looks now, below `root` (`/`, if it is no test). What cannot be read is not known.
    pub(super) fn look(root: &Path) -> MemoryPressure {
        let levels = own_levels(root);
        let stalled = |path: &Path| some_avg10(&read(path)?);
        // In a container the own path may be that of the host, and what is mounted the own cgroup:
        // then it is the first one on the way up that is there.
        let cgroup = levels
            .iter()
            .find_map(|level| stalled(&level.join("memory.pressure")));
        if let Some(some_avg10_percent) = cgroup {
            return MemoryPressure::CgroupStall { some_avg10_percent };
        }
        if let Some(some_avg10_percent) = stalled(&root.join("proc/pressure/memory")) {
            return MemoryPressure::SystemStall { some_avg10_percent };
        }
        // A limit is one for all below it.
        let fullest = levels.iter().filter_map(|level| filled(level));
        fullest
            .reduce(f64::max)
            .map_or(MemoryPressure::Unknown, |filled_percent| {
                MemoryPressure::CgroupFill { filled_percent }
            })
    }
}

/// The directories of the own cgroup and of those around it.
fn own_levels(root: &Path) -> Vec<PathBuf> {
    let text = read(&root.join("proc/self/cgroup"));
    let Some(own) = text.as_deref().and_then(own_cgroup) else {
        return Vec::new();
    };
    let mounts = CGROUP_MOUNTS.iter().map(|mount| root.join(mount));
    mounts
        .flat_map(|mount| {
            let innermost = mount.join(own);
            let up = innermost
                .ancestors()
                .take_while(|dir| dir.starts_with(&mount));
            up.take(MAX_LEVELS)
                .map(Path::to_path_buf)
                .collect::<Vec<_>>()
        })
        .collect()
}

fn filled(level: &Path) -> Option<f64> {
    let of = |name: &str| read(&level.join(name));
    filled_percent(&FillTexts {
        current: of("memory.current")?,
        high: of("memory.high").unwrap_or_default(),
        max: of("memory.max").unwrap_or_default(),
        stat: of("memory.stat").unwrap_or_default(),
    })
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    let mut file = File::open(path).ok()?.take(MAX_TEXT_BYTES);
    file.read_to_string(&mut text).ok()?;
    Some(text)
}

/// The own cgroup of version 2 in the text of `/proc/self/cgroup`, relative to the mount. Lines of
/// version 1 (`4:memory:/a`) are passed over: its groups have no PSI.
fn own_cgroup(text: &str) -> Option<&str> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // Outside of what this process may see (cgroup_namespaces(7)).
    let is_outside = path.split('/').any(|part| part == "..");
    (!is_outside).then_some(path)
}

/// `avg10` of the line `some` in the text of a pressure file, in percent.
fn some_avg10(text: &str) -> Option<f64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let avg10 = some
        .split(' ')
        .find_map(|field| field.strip_prefix("avg10="))?;
    let percent: f64 = avg10.parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent)
}

/// Texts of a cgroup's files that say how full it is.
struct FillTexts {
    current: String,
    high: String,
    max: String,
    stat: String,
}

/// How full a cgroup is, in percent; `None` where it has no limit.
fn filled_percent(texts: &FillTexts) -> Option<f64> {
    let bytes = |text: &str| text.trim().parse::<u64>().ok();
    let current = bytes(&texts.current)?;
    // No number is `max`: no limit.
    let limits = [bytes(&texts.high), bytes(&texts.max)];
    let limit = limits.into_iter().flatten().min()?;
    let droppable = texts
        .stat
        .lines()
        .find_map(|line| line.strip_prefix("inactive_file "));
    let used = current.saturating_sub(droppable.and_then(bytes).unwrap_or(0));
    // A limit of 0 is full with anything.
    Some(used as f64 * 100.0 / limit.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const PSI: &str = "some avg10=12.34 avg60=2.15 avg300=1.08 total=287263028\n\
                       full avg10=0.30 avg60=0.12 avg300=0.05 total=1839\n";
    const CALM: &str = "some avg10=0.00 avg60=0.00 avg300=0.00 total=14334880\n\
                        full avg10=0.00 avg60=0.00 avg300=0.00 total=4065782\n";
    const HYBRID: &str = "9:name=systemd:/\n8:pids:/\n4:memory:/process_api/07e3\n3:cpuset:/\n\
                          1:cpu:/\n0::/user.slice/a.service\n";

    #[test]
    fn the_own_cgroup_is_found_among_those_of_version_1() {
        assert_eq!(own_cgroup(HYBRID), Some("user.slice/a.service"));
        assert_eq!(own_cgroup("0::/\n"), Some(""));
        let colons = "0::/machine.slice/libpod-1:2.scope\n";
        assert_eq!(own_cgroup(colons), Some("machine.slice/libpod-1:2.scope"));
        let version_1 =
            "11:memory:/docker/ab\n10:cpu,cpuacct:/docker/ab\n1:name=systemd:/docker/ab\n";
        for text in [
            version_1,
            "",
            "\n",
            "0:",
            "0::",
            "0::/../..\n",
            "0::/a/../../b\n",
            "\0",
        ] {
            assert_eq!(own_cgroup(text), None, "{text:?}");
        }
    }

    #[test]
    fn stalls_are_read_of_the_line_some() {
        assert_eq!(some_avg10(PSI), Some(12.34));
        assert_eq!(some_avg10(CALM), Some(0.0));
        assert_eq!(some_avg10("some avg10=100.00 total=1"), Some(100.0));
        let garbage = [
            "",
            "some",
            "some ",
            "some avg60=1.00",
            "full avg10=50.00 avg60=0.00 avg300=0.00 total=1\n",
            "some avg10= avg60=0.00",
            "some avg10=NaN",
            "some avg10=inf",
            "some avg10=-1.00",
            "some avg10=100.01",
            "some avg10=twelve",
            "Operation not supported",
        ];
        for text in garbage {
            assert_eq!(some_avg10(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_cgroup_is_as_full_as_its_lower_limit_says() {
        let filled = |current: &str, high: &str, max: &str, stat: &str| {
            let [current, high, max, stat] = [current, high, max, stat].map(str::to_owned);
            filled_percent(&FillTexts {
                current,
                high,
                max,
                stat,
            })
        };
        assert_eq!(filled("500\n", "max\n", "1000\n", ""), Some(50.0));
        assert_eq!(filled("500\n", "800\n", "1000\n", ""), Some(62.5));
        assert_eq!(filled("500\n", "800\n", "max\n", ""), Some(62.5));
        let stat =
            "anon 1\nfile 450\nkernel 3\ninactive_anon 1\nactive_file 50\ninactive_file 400\n";
        assert_eq!(filled("500\n", "max\n", "1000\n", stat), Some(10.0));
        assert_eq!(filled("5\n", "max\n", "1000\n", stat), Some(0.0));
        assert_eq!(filled("5\n", "max\n", "0\n", ""), Some(500.0));
        assert_eq!(filled("500\n", "max\n", "max\n", stat), None);
        assert_eq!(filled("500\n", "", "", ""), None);
        assert_eq!(filled("much\n", "max\n", "1000\n", ""), None);
        assert_eq!(filled("500\n", "-1\n", "1e3\n", ""), None);
    }

    /// A root directory with these files.
    fn root_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_first_source_that_can_be_read_is_used() {
        let own = "sys/fs/cgroup/user.slice/a.service";
        let group = ("proc/self/cgroup", HYBRID);
        let system = ("proc/pressure/memory", CALM);
        let pressure = format!("{own}/memory.pressure");
        let (current, max) = (format!("{own}/memory.current"), format!("{own}/memory.max"));
        let outer_max = "sys/fs/cgroup/user.slice/memory.max";
        let outer_current = "sys/fs/cgroup/user.slice/memory.current";
        let look = |files: &[(&str, &str)]| MemoryPressure::look(root_with(files).path());

        let stalled = MemoryPressure::CgroupStall {
            some_avg10_percent: 12.34,
        };
        assert_eq!(look(&[group, system, (&pressure, PSI)]), stalled);
        assert!(stalled.is_high());
        // Beside version 1, cgroups of version 2 have a mount of their own.
        let hybrid = "sys/fs/cgroup/unified/user.slice/a.service/memory.pressure";
        assert_eq!(look(&[group, (hybrid, PSI)]), stalled);
        // A container with its own cgroup mounted, and the host's name of it.
        assert_eq!(
            look(&[group, ("sys/fs/cgroup/memory.pressure", PSI)]),
            stalled
        );

        let calm = MemoryPressure::SystemStall {
            some_avg10_percent: 0.0,
        };
        assert_eq!(look(&[group, system, (&pressure, "garbage")]), calm);
        assert_eq!(look(&[system]), calm);
        assert!(!calm.is_high());

        let limits = [group, (&current, "95\n"), (&max, "100\n")];
        let full = MemoryPressure::CgroupFill {
            filled_percent: 95.0,
        };
        assert_eq!(look(&limits), full);
        assert!(full.is_high());
        let around = [
            group,
            (&current, "10\n"),
            (&max, "100\n"),
            (outer_current, "40\n"),
            (outer_max, "80\n"),
        ];
        let half = MemoryPressure::CgroupFill {
            filled_percent: 50.0,
        };
        assert_eq!(look(&around), half);
        assert!(!half.is_high());
    }

    #[test]
    fn what_cannot_be_read_is_unknown() {
        let look = |files: &[(&str, &str)]| MemoryPressure::look(root_with(files).path());
        let group = ("proc/self/cgroup", HYBRID);
        let unlimited = ("sys/fs/cgroup/memory.max", "max\n");
        for files in [
            &[][..],
            &[group],
            &[("proc/self/cgroup", "1:memory:/a\n")],
            &[group, unlimited],
            &[group, ("proc/pressure/memory/is/a/directory", "")],
        ] {
            assert_eq!(look(files), MemoryPressure::Unknown);
        }
        assert!(!MemoryPressure::Unknown.is_high());
        let root = root_with(&[]);
        fs::create_dir_all(root.path().join("proc/pressure")).unwrap();
        fs::write(root.path().join("proc/pressure/memory"), [0xff; 100]).unwrap();
        assert_eq!(MemoryPressure::look(root.path()), MemoryPressure::Unknown);
    }

    #[test]
    fn this_host_says_something_sensible() {
        match MemoryPressure::look(Path::new("/")) {
            MemoryPressure::Unknown => {}
            MemoryPressure::CgroupStall {
                some_avg10_percent: percent,
            }
            | MemoryPressure::SystemStall {
                some_avg10_percent: percent,
            }
            | MemoryPressure::CgroupFill {
                filled_percent: percent,
            } => assert!(percent >= 0.0),
        }
    }
}
