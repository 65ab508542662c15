//! What this kernel offers, found out by trying, with the reason when something is missing.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use crate::availability::Availability;
use crate::driver::{Backend, Driver};
use crate::file::FileOp;
use crate::gso::Run;
use crate::op::{Completion, DriverConfig, SendBuffer, SendRun};
use crate::pool::Pool;
use crate::socket::{UdpOptions, UdpSocket};

/// What the kernel offers this process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caps {
    /// Release of the running kernel, as `uname -r` prints it.
    pub kernel: String,
    /// The io_uring backend: setup with our flags, a buffer ring, a multishot receive that
    /// receives.
    pub io_uring: Availability,
    /// Registered memory for file operations. `No` costs a little CPU, nothing else.
    pub registered_buffers: Availability,
    /// UDP_SEGMENT: one call sends many datagrams.
    pub gso: Availability,
    /// UDP_GRO: one call receives many datagrams.
    pub gro: Availability,
    /// Steering packets to sockets by connection id (SO_ATTACH_REUSEPORT_CBPF).
    pub steering: Availability,
    /// openat2, which confines paths to the served root. Nothing works without it.
    pub openat2: Availability,
}

impl Caps {
    /// Tries everything, on loopback and in anonymous memory; takes a few milliseconds at most.
    pub fn probe() -> Caps {
        let (io_uring, registered_buffers) = probe_ring();
        Caps {
            kernel: kernel_release(),
            io_uring,
            registered_buffers,
            gso: probe_udp_option(libc::UDP_SEGMENT, "UDP_SEGMENT", "4.18"),
            gro: probe_udp_option(libc::UDP_GRO, "UDP_GRO", "5.0"),
            steering: probe_steering(),
            openat2: probe_openat2(),
        }
    }
}

/// Whether a ring can be set up as the io_uring backend needs it. What it then does is not tried,
/// which is the better part of what [`Caps::probe`] costs: deferred task work came with 6.1, where
/// all the backend uses is there, and sandboxes refuse the set-up itself.
pub fn ring_can_be_set_up() -> Availability {
    match crate::uring::new_ring(8) {
        Ok(_) => Availability::Yes,
        Err(error) => Availability::No(ring_reason("io_uring_setup", &error)),
    }
}

/// Why the io_uring backend could not be set up, in words, with what helps.
pub fn why_no_ring(error: &io::Error) -> String {
    ring_reason("io_uring_setup", error)
}

/// Whether a sandbox lets the system calls through without which no file can be copied; `No` names
/// the first that it does not. What else is used is as old as Linux, or is done without.
pub fn needed_calls() -> Availability {
    let openat2 = probe_openat2();
    let statx = FileOp::Statx {
        dir: None,
        path: c"/".into(),
        flags: 0,
    };
    let statx = available("statx", crate::run(statx).map(drop), "4.11");
    // Of names that nothing can have: ENOENT is the kernel's own answer, whatever is there.
    let rename = FileOp::Rename {
        from_dir: None,
        from: c"".into(),
        to_dir: None,
        to: c"".into(),
        flags: libc::RENAME_NOREPLACE,
    };
    let renamed = match crate::run(rename) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other.map(drop),
    };
    let renameat2 = available("renameat2", renamed, "3.15");
    let linked = fs::File::open("/").and_then(|root| {
        let link = FileOp::Link {
            file: Arc::new(root.into()),
            to_dir: None,
            to: c"".into(),
        };
        match crate::run(link) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other.map(drop),
        }
    });
    let linkat = available("linkat", linked, "2.6.39");
    let missing = [openat2, statx, renameat2, linkat]
        .into_iter()
        .find(|call| !call.is_yes());
    missing.unwrap_or(Availability::Yes)
}

/// Random number of this boot (/proc/sys/kernel/random/boot_id): data not on disk is gone when it
/// changed.
///
/// # Errors
/// Where /proc is not mounted; `InvalidData` when the file holds no UUID.
pub fn boot_id() -> io::Result<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits: Vec<u8> = text
        .bytes()
        .filter_map(|c| char::from(c).to_digit(16))
        .map(|d| d as u8)
        .collect();
    let bytes: Vec<u8> = digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair.get(1).copied().unwrap_or(0))
        .collect();
    bytes
        .try_into()
        .map_err(|_| io::ErrorKind::InvalidData.into())
}

fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".into(), |text| text.trim().into())
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn open_socket(reuse_port: bool) -> io::Result<UdpSocket> {
    let options = UdpOptions {
        recv_buffer_bytes: 256 * 1024,
        send_buffer_bytes: 256 * 1024,
        reuse_port,
    };
    UdpSocket::bind(loopback(), &options)
}

/// (io_uring, registered_buffers): a datagram through a real driver, a file read through a
/// registered buffer.
fn probe_ring() -> (Availability, Availability) {
    let no = |step: &str, error: io::Error| {
        let reason = ring_reason(step, &error);
        (Availability::No(reason.clone()), Availability::No(reason))
    };
    let (pool, config) = match Pool::new(1) {
        Ok(pool) => (
            pool,
            DriverConfig {
                recv_buffers: 2,
                queue_entries: 8,
            },
        ),
        Err(error) => return no("mmap", error),
    };
    let mut driver = match Driver::new(Backend::IoUring, &config, &pool) {
        Ok(driver) => driver,
        Err(error) => return no("io_uring_setup", error),
    };
    match receive_one(&mut driver).and_then(|()| read_fixed(&mut driver, &pool)) {
        Ok(registered) => (Availability::Yes, registered),
        Err(error) => no("multishot recvmsg", error),
    }
}

/// Sends a datagram to itself through the driver.
fn receive_one(driver: &mut Driver) -> io::Result<()> {
    let socket = open_socket(false)?;
    let to = socket.local_addr()?;
    let socket = driver.add_socket(socket)?;
    let runs = vec![Run::single(0..4)];
    driver.send(
        0,
        SendRun {
            socket,
            buffer: SendBuffer::new(),
            runs,
            to,
            from: None,
        },
    );
    // One turn sends, the next receives; the rest is for a machine under load.
    for _ in 0..20 {
        driver.submit_and_wait(Some(Duration::from_millis(50)))?;
        while let Some(completion) = driver.next_completion() {
            match completion {
                Completion::Received(datagrams) if datagrams.payload().len() == 4 => return Ok(()),
                Completion::Sent { result, .. } => drop(result?),
                _ => {}
            }
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Reads from /proc through the ring; what matters is whether the buffer could be registered.
fn read_fixed(driver: &mut Driver, pool: &Pool) -> io::Result<Availability> {
    let file = fs::File::open("/proc/self/statm")?;
    if let Some(buffer) = pool.take() {
        let len = buffer.spare_len();
        driver.file(
            1,
            FileOp::Read {
                file: std::sync::Arc::new(file.into()),
                offset: 0,
                buffer,
                len,
                waits: false,
            },
        );
        driver.submit_and_wait(Some(Duration::from_secs(1)))?;
    }
    Ok(driver.registered_buffers())
}

fn ring_reason(step: &str, error: &io::Error) -> String {
    let hint = match error.raw_os_error() {
        Some(libc::EPERM) => {
            match fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
                .as_deref()
                .map(str::trim)
            {
                Ok("2") => "kernel.io_uring_disabled=2 forbids it to everyone",
                Ok("1") => {
                    "kernel.io_uring_disabled=1 forbids it to users outside kernel.io_uring_group"
                }
                _ => "a seccomp filter forbids it (containers do by default)",
            }
        }
        Some(libc::ENOSYS) => "the kernel is built without it, or a sandbox hides it",
        Some(libc::EINVAL) => "needs Linux 6.1 (deferred task work)",
        // Since 6.13 rings are counted as locked memory, for all processes of a user together.
        Some(libc::ENOMEM) => {
            "RLIMIT_MEMLOCK is too small for the rings of this user's processes (ulimit -l, \
             LimitMEMLOCK= of a unit)"
        }
        _ => "unexpected",
    };
    format!("{step}: {error} - {hint}")
}

fn probe_udp_option(option: i32, name: &str, since: &str) -> Availability {
    let value: i32 = 0;
    let len = size_of_val(&value) as libc::socklen_t;
    let result = open_socket(false).and_then(|socket| {
        // SAFETY: the option value is an int that outlives the call, and its length is given.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_UDP,
                option,
                (&raw const value).cast(),
                len,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    });
    available(name, result, since)
}

fn probe_steering() -> Availability {
    let result = open_socket(true).and_then(|socket| socket.steer_by_cid(1));
    available("SO_ATTACH_REUSEPORT_CBPF", result, "4.5")
}

fn probe_openat2() -> Availability {
    let how = crate::OpenHow {
        flags: libc::O_PATH | libc::O_DIRECTORY,
        mode: 0,
        resolve: libc::RESOLVE_NO_MAGICLINKS,
    };
    let result = crate::run(FileOp::Open {
        dir: None,
        path: c"/".into(),
        how,
        waits: false,
    })
    .map(drop);
    available("openat2", result, "5.6")
}

fn available(name: &str, result: io::Result<()>, since: &str) -> Availability {
    match result {
        Ok(()) => Availability::Yes,
        Err(error) => Availability::No(match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => format!("{name}: {error} - a sandbox forbids it"),
            _ => format!("{name}: {error} - needs Linux {since}, or a sandbox hides it"),
        }),
    }
}

/// The backend to use when nobody asked for one, and the reason in words, given what is known of
/// io_uring.
pub fn best_backend(io_uring: &Availability) -> (Backend, String) {
    match io_uring {
        Availability::Yes => (
            Backend::IoUring,
            format!("io_uring works on Linux {}", kernel_release()),
        ),
        Availability::No(reason) => (Backend::Poll, reason.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_agrees_with_the_driver() {
        let caps = Caps::probe();
        let pool = Pool::new(1).unwrap();
        let driver = Driver::new(Backend::IoUring, &DriverConfig::default(), &pool);
        assert_eq!(
            caps.io_uring.is_yes(),
            driver.is_ok(),
            "{caps:?} {driver:?}"
        );
        assert_eq!(
            best_backend(&caps.io_uring).0 == Backend::IoUring,
            driver.is_ok()
        );
        assert_eq!(ring_can_be_set_up().is_yes(), driver.is_ok());
        // What every kernel since 5.6 has.
        for availability in [&caps.gso, &caps.gro, &caps.steering, &caps.openat2] {
            assert_eq!(availability, &Availability::Yes);
        }
        assert!(caps.kernel.starts_with(|c: char| c.is_ascii_digit()));
    }

    #[test]
    fn reasons_name_the_cause() {
        let reason = |errno| ring_reason("io_uring_setup", &io::Error::from_raw_os_error(errno));
        assert!(reason(libc::EINVAL).contains("6.1"));
        assert!(reason(libc::ENOMEM).contains("MEMLOCK"));
        assert!(reason(libc::EPERM).contains("forbids"));
    }

    #[test]
    fn the_boot_id_is_stable() {
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
        assert_ne!(boot_id().unwrap(), [0; 16]);
    }
}
