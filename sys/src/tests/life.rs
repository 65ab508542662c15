//! Waking, waiting, dropping with operations in flight, and registered memory that was trimmed.

use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::*;
use crate::threads::Threads;
use crate::wake::WakeHandle;

#[test]
fn a_wait_lasts_at_least_as_long_as_asked() {
    for backend in backends() {
        let (_pool, mut driver) = pool_and_driver(backend);
        add(&mut driver, "127.0.0.1:0");
        for micros in [0, 300, 1_000, 7_300, 60_000] {
            let timeout = Duration::from_micros(micros);
            #[allow(clippy::disallowed_methods)] // Measures the wait itself.
            let start = Instant::now();
            driver.submit_and_wait(Some(timeout)).unwrap();
            assert!(start.elapsed() >= timeout, "{backend:?} {timeout:?}");
            assert!(driver.next_completion().is_none());
        }
    }
}

#[test]
fn no_wake_is_lost_and_they_coalesce() {
    const MESSAGES: u32 = 20_000;
    for backend in backends() {
        let (_pool, mut driver) = pool_and_driver(backend);
        let mailbox = Arc::new(AtomicU32::new(0));
        let (wake, posted) = (driver.wake_handle(), Arc::clone(&mailbox));
        let sender = std::thread::spawn(move || {
            for _ in 0..MESSAGES {
                posted.fetch_add(1, Ordering::Relaxed);
                wake.wake();
            }
        });
        let (mut got, mut wakes) = (0, 0);
        while got < MESSAGES {
            // No limit: a lost wake would hang here.
            driver.submit_and_wait(None).unwrap();
            while let Some(completion) = driver.next_completion() {
                assert!(matches!(completion, Completion::Woken));
                wakes += 1;
                got += mailbox.swap(0, Ordering::Relaxed);
            }
        }
        sender.join().unwrap();
        assert!(wakes <= MESSAGES);
        // Wakes before anybody waits are one.
        let wake = driver.wake_handle();
        while driver.submit_and_wait(Some(Duration::ZERO)).is_ok()
            && driver.next_completion().is_some()
        {}
        (0..10).for_each(|_| wake.wake());
        assert!(matches!(next(&mut driver), Completion::Woken));
        driver
            .submit_and_wait(Some(Duration::from_millis(1)))
            .unwrap();
        assert!(driver.next_completion().is_none());
        drop(driver);
        wake.wake();
    }
}

#[test]
fn dropping_takes_back_everything_in_flight() {
    for backend in backends() {
        let (pool, mut driver) = pool_and_driver(backend);
        let (socket, address) = add(&mut driver, "127.0.0.1:0");
        let (peer, _) = std_socket("127.0.0.1:0");
        peer.send_to(b"outlives the driver", address).unwrap();
        let Completion::Received(mut received) = next(&mut driver) else {
            panic!()
        };
        // Reads that never complete (on the ring; elsewhere pread on a pipe is an error at once).
        let (reader, writer) = std::io::pipe().unwrap();
        let reader: Arc<OwnedFd> = Arc::new(reader.into());
        for token in 0..100 {
            let Some(buffer) = pool.take() else { break };
            driver.file(
                token,
                FileOp::Read {
                    file: Arc::clone(&reader),
                    offset: 0,
                    buffer,
                    len: 1 << 16,
                    waits: false,
                },
            );
        }
        // Half of it known to the kernel, half not, and more than the queue takes.
        driver.submit_and_wait(Some(Duration::ZERO)).unwrap();
        for token in 0..200 {
            let runs = vec![Run {
                range: 0..1_000,
                segment_bytes: Some(100),
            }];
            driver.send(
                token,
                SendRun {
                    socket,
                    buffer: SendBuffer::new(),
                    runs,
                    to: address,
                    from: None,
                },
            );
            driver.file(
                token,
                FileOp::Fstat {
                    file: Arc::clone(&reader),
                },
            );
        }
        if backend == Backend::IoUring {
            assert!(driver.in_flight() >= 216, "{}", driver.in_flight());
        }
        drop(driver);
        assert_eq!(pool.in_use(), 0, "the drop gave up waiting");
        assert_eq!(Arc::strong_count(&reader), 1);
        assert_eq!(received.payload_mut(), b"outlives the driver");
        // The port is free again at once.
        UdpSocket::bind(address, &options()).unwrap();
        drop(writer);
    }
}

#[test]
fn a_descriptor_opened_during_the_drop_is_closed() {
    for backend in backends() {
        let dir = tempfile::tempdir().unwrap();
        let (_pool, mut driver) = pool_and_driver(backend);
        let name =
            |i: u64| std::ffi::CString::new(format!("{}/{i}", dir.path().display())).unwrap();
        let how = OpenHow {
            flags: libc::O_CREAT | libc::O_WRONLY,
            mode: 0o600,
            resolve: 0,
        };
        for i in 0..40 {
            driver.file(
                i,
                FileOp::Open {
                    dir: None,
                    path: name(i),
                    how,
                    waits: false,
                },
            );
        }
        let _ = driver.submit_and_wait(Some(Duration::ZERO));
        drop(driver);
        // Other tests open files too, so only ours are looked for.
        let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let targets = links.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        assert_eq!(
            targets
                .filter(|target| target.starts_with(dir.path()))
                .count(),
            0
        );
    }
}

/// An open of a FIFO that nobody writes to: it hangs a thread, as a file system that never answers
/// would, and cannot be cancelled there.
#[test]
fn a_thread_that_hangs_keeps_no_results() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| {
        let path = dir.path().join(name);
        std::ffi::CString::new(path.to_str().unwrap()).unwrap()
    };
    let open = |name: &str| FileOp::Open {
        dir: None,
        path: path(name),
        how: OpenHow {
            flags: libc::O_RDONLY,
            mode: 0,
            resolve: 0,
        },
        waits: true,
    };
    nix::unistd::mkfifo(path("fifo").as_c_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for name in ["0", "1", "2", "3"] {
        std::fs::write(dir.path().join(name), name).unwrap();
    }
    // Other tests open files too, so only ours are looked for.
    let ours = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let targets = links.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        targets.filter(|at| at.starts_with(dir.path())).count()
    };
    let wake = WakeHandle::new(nix::sys::eventfd::EfdFlags::EFD_NONBLOCK).unwrap();
    let mut threads = Threads::new(wake);
    assert!(threads.push(0, open("fifo")).is_none());
    for (token, name) in (1..).zip(["0", "1", "2", "3"]) {
        assert!(threads.push(token, open(name)).is_none());
    }
    let are_open = |count: usize| {
        (0..GIVE_UP.as_millis()).any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            ours() == count
        })
    };
    assert!(are_open(4), "the threads opened {} files", ours());
    drop(threads);
    assert!(are_open(0), "{} files are kept", ours());
    // Lets the thread go: its descriptor, too, is nobody's.
    let mut writer = std::fs::File::options();
    let writer = writer.write(true).custom_flags(libc::O_NONBLOCK);
    drop(writer.open(dir.path().join("fifo")).unwrap());
    assert!(are_open(0), "{} files are open", ours());
}

#[test]
fn trimmed_buffers_read_and_write_right() {
    for backend in backends() {
        for parent in ["/tmp", "/dev/shm"] {
            let dir = tempfile::tempdir_in(parent).unwrap();
            let (pool, mut driver) = pool_and_driver(backend);
            let path = dir.path().join("file");
            std::fs::write(&path, vec![b'a'; 200_000]).unwrap();
            let handle = std::fs::File::options()
                .read(true)
                .write(true)
                .open(&path)
                .unwrap();
            let handle: Arc<OwnedFd> = Arc::new(handle.into());
            for round in 0..4u8 {
                let buffer = pool.take().unwrap();
                let len = buffer.spare_len();
                let read = FileOp::Read {
                    file: Arc::clone(&handle),
                    offset: 1_000,
                    buffer,
                    len,
                    waits: false,
                };
                let FileDone::Read { mut buffer, bytes } = file(&mut driver, read).unwrap() else {
                    panic!()
                };
                assert_eq!(bytes, len);
                // Registered pages that a trim replaced would leave zeroes here.
                assert!(
                    buffer.spare_mut().iter().all(|&byte| byte == b'a' + round),
                    "{backend:?} {round}"
                );
                buffer.spare_mut().fill(b'b' + round);
                buffer.advance(bytes);
                let data = buffer.split();
                for offset in [0, 65_536, 131_072] {
                    let write = FileOp::Write {
                        file: Arc::clone(&handle),
                        offset,
                        data: data.clone(),
                    };
                    let FileDone::Written(65_536) = file(&mut driver, write).unwrap() else {
                        panic!()
                    };
                }
                assert!(
                    std::fs::read(&path).unwrap()[..196_608]
                        .iter()
                        .all(|&byte| byte == b'b' + round)
                );
                drop((buffer, data));
                // With and without telling the ring.
                if round % 2 == 0 {
                    driver.trim()
                } else {
                    pool.trim()
                }
            }
            assert_eq!(pool.in_use(), 0);
        }
    }
}

#[test]
fn a_failed_read_gives_its_buffer_back() {
    for backend in backends() {
        let (pool, mut driver) = pool_and_driver(backend);
        let directory: Arc<OwnedFd> = Arc::new(std::fs::File::open("/").unwrap().into());
        let buffer = pool.take().unwrap();
        let op = FileOp::Read {
            file: Arc::clone(&directory),
            offset: 0,
            buffer,
            len: 100,
            waits: false,
        };
        assert_eq!(
            file(&mut driver, op).unwrap_err().raw_os_error(),
            Some(libc::EISDIR)
        );
        let buffer = pool.take().unwrap();
        let op = FileOp::Read {
            file: directory,
            offset: u64::MAX,
            buffer,
            len: 100,
            waits: false,
        };
        assert_eq!(
            file(&mut driver, op).unwrap_err().kind(),
            std::io::ErrorKind::InvalidInput
        );
        assert_eq!((pool.in_use(), driver.in_flight()), (0, 0));
    }
}

#[test]
fn receive_buffers_must_be_a_power_of_two() {
    let pool = Pool::new(1).unwrap();
    for recv_buffers in [0, 1, 3, 65_535] {
        let config = DriverConfig {
            recv_buffers,
            queue_entries: 8,
        };
        assert!(Driver::new(Backend::Poll, &config, &pool).is_err());
    }
}
