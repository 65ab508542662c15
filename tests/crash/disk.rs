//! A disk whose power can be cut: an image with a file system in it, and copies of that image at
//! any moment.
//!
//! The image lies on btrfs. Its reflink copy takes no time and holds the inode's lock, so it is
//! exactly what a disk without a cache of its own would have after a cut: every write that the file
//! system had sent, and none of the page cache above it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::common::{is_root, roomy_dir};

/// More than the smallest xfs (300 MiB), and room for two versions of a tree.
const IMAGE_BYTES: u64 = 480 << 20;

/// Sparse: room for the image and what its copies no longer share with it.
const OUTER_BYTES: u64 = 4 << 30;

/// What is left of it in memory is a few hundred MB a disk.
const EXPECTED_BYTES: u64 = 1 << 30;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileSystem {
    Ext4,
    Xfs,
    Btrfs,
}

impl FileSystem {
    pub const ALL: [FileSystem; 3] = [FileSystem::Ext4, FileSystem::Xfs, FileSystem::Btrfs];

    pub fn name(self) -> &'static str {
        match self {
            FileSystem::Ext4 => "ext4",
            FileSystem::Xfs => "xfs",
            FileSystem::Btrfs => "btrfs",
        }
    }

    fn make(self, image: &Path) -> Result<(), String> {
        // ext4: mke2fs has 128-byte inodes in mind for small disks, which have no nanoseconds.
        let (program, args): (&str, &[&str]) = match self {
            FileSystem::Ext4 => ("mkfs.ext4", &["-q", "-F", "-b", "4096", "-I", "256"]),
            FileSystem::Xfs => ("mkfs.xfs", &["-q", "-f"]),
            FileSystem::Btrfs => ("mkfs.btrfs", &["-q", "-f"]),
        };
        run(Command::new(program).args(args).arg(image))
    }

    /// How it is mounted, the usual way first.
    pub fn options(self) -> &'static [&'static str] {
        match self {
            // Commits come every 5 s, or more often; and without the help it gives to programs that
            // rename before their data is down.
            FileSystem::Ext4 => &[
                "defaults",
                "commit=1",
                "noauto_da_alloc",
                "commit=1,noauto_da_alloc",
            ],
            // Another mount namespace on this machine may still hold the disk before the cut.
            FileSystem::Xfs => &["nouuid"],
            FileSystem::Btrfs => &["defaults", "commit=1"],
        }
    }
}

/// Whether disks can be made here; says why not.
pub fn possible(file_systems: &[FileSystem]) -> bool {
    let made = match is_root() {
        true => file_systems
            .iter()
            .try_for_each(|&kind| Disk::new(kind, kind.options()[0]).map(drop)),
        false => Err("that needs root".to_owned()),
    };
    if let Err(error) = &made {
        crate::common::skipped(&format!(
            "a disk that can lose power cannot be made here: {error}"
        ));
    }
    made.is_ok()
}

fn outer(dir: &TempDir) -> Result<Mount, String> {
    let (image, at) = (dir.path().join("outer.img"), dir.path().join("outer"));
    sparse(&image, OUTER_BYTES);
    run(Command::new("mkfs.btrfs").args(["-q", "-f"]).arg(&image))?;
    fs::create_dir_all(&at).unwrap();
    Mount::new(&image, at, FileSystem::Btrfs, "defaults")
}

fn sparse(path: &Path, bytes: u64) {
    File::create(path).unwrap().set_len(bytes).unwrap();
}

pub struct Disk {
    // Dropped in this order.
    mount: Option<Mount>,
    outer: Mount,
    dir: TempDir,
    file_system: FileSystem,
    options: &'static str,
    /// What is mounted.
    image: PathBuf,
    cuts: usize,
}

impl Disk {
    /// # Errors
    /// A tool is missing, or the kernel has no loop device, btrfs or `file_system`.
    pub fn new(file_system: FileSystem, options: &'static str) -> Result<Disk, String> {
        let dir = roomy_dir(EXPECTED_BYTES);
        let outer = outer(&dir)?;
        let image = outer.at.join("disk.img");
        sparse(&image, IMAGE_BYTES);
        file_system.make(&image)?;
        fs::create_dir(dir.path().join("disk")).unwrap();
        let mut disk = Disk {
            mount: None,
            outer,
            dir,
            file_system,
            options,
            image: image.clone(),
            cuts: 0,
        };
        disk.turn_on(image)?;
        Ok(disk)
    }

    /// Where it is mounted, before and after a cut.
    pub fn at(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    /// Everything is down, as if it had been there for long.
    pub fn sync(&self) {
        run(Command::new("sync").arg("-f").arg(self.at())).unwrap();
    }

    /// What a cut would leave at this moment. The disk goes on.
    pub fn cut(&mut self) -> PathBuf {
        self.cuts += 1;
        let copy = self.outer.at.join(format!("cut-{}.img", self.cuts));
        run(Command::new("cp")
            .arg("--reflink=always")
            .args([&self.image, &copy]))
        .unwrap();
        copy
    }

    pub fn turn_off(&mut self) {
        self.mount = None;
    }

    /// The image of a cut is not needed any more.
    pub fn throw_away(&mut self) {
        self.turn_off();
        fs::remove_file(&self.image).unwrap();
    }

    /// Mounts an image, as after a cut; the file system recovers.
    pub fn turn_on(&mut self, image: PathBuf) -> Result<(), String> {
        self.turn_off();
        self.mount = Some(Mount::new(
            &image,
            self.at(),
            self.file_system,
            self.options,
        )?);
        self.image = image;
        Ok(())
    }
}

struct Mount {
    at: PathBuf,
}

impl Mount {
    fn new(
        image: &Path,
        at: PathBuf,
        file_system: FileSystem,
        options: &str,
    ) -> Result<Mount, String> {
        // The loop device goes with the mount.
        let options = format!("loop,{options}");
        run(Command::new("mount")
            .args(["-t", file_system.name(), "-o", &options])
            .args([image, &at]))?;
        Ok(Mount { at })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        const TRIES: usize = 50;
        for _ in 0..TRIES {
            if run(Command::new("umount").arg(&self.at)).is_ok() {
                return;
            }
            // The kernel lets go of the files of a process that was killed, and of a loop device, a
            // little later.
            thread::sleep(Duration::from_millis(100));
        }
        let lazily = run(Command::new("umount").arg("--lazy").arg(&self.at));
        eprintln!(
            "{} is still used; unmounted lazily: {lazily:?}",
            self.at.display()
        );
    }
}

/// Runs a tool to its end. Err: what it said.
pub fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", OsStr::new(&name).display()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}
