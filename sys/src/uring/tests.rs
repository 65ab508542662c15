//! What only the ring does: waiting reads, operations beyond the queue's size.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::FileDone;

fn driver(entries: u32, pool: &Pool) -> Option<UringDriver> {
    match UringDriver::new(
        &DriverConfig {
            recv_buffers: 2,
            queue_entries: entries,
        },
        pool,
    ) {
        Ok(driver) => Some(driver),
        Err(error) => {
            eprintln!("no io_uring here: {error}");
            None
        }
    }
}

#[test]
fn a_read_waits_for_its_data_while_the_loop_goes_on() {
    let pool = Pool::new(1).unwrap();
    let Some(mut driver) = driver(8, &pool) else {
        return;
    };
    let (reader, mut writer) = std::io::pipe().unwrap();
    let file: Arc<OwnedFd> = Arc::new(reader.into());
    driver.file(
        3,
        FileOp::Read {
            file,
            offset: 0,
            buffer: pool.take().unwrap(),
            len: 100,
            waits: false,
        },
    );
    driver
        .submit_and_wait(Some(Duration::from_millis(2)))
        .unwrap();
    assert!(driver.next_completion().is_none());
    assert_eq!(driver.in_flight(), 1);
    writer.write_all(b"late").unwrap();
    driver.submit_and_wait(None).unwrap();
    let Some(Completion::File {
        token: 3,
        result: Ok(FileDone::Read {
            mut buffer,
            bytes: 4,
        }),
    }) = driver.next_completion()
    else {
        panic!()
    };
    assert_eq!(&buffer.spare_mut()[..4], b"late");
}

#[test]
fn pool_memory_is_registered_at_first_use_and_let_go_by_trim() {
    let pool = Pool::new(2).unwrap();
    let Some(mut driver) = driver(8, &pool) else {
        return;
    };
    let pinned = |driver: &UringDriver| driver.held.registration.pinned();
    assert_eq!(pinned(&driver), 0);
    let file: Arc<OwnedFd> = Arc::new(std::fs::File::open("/proc/self/exe").unwrap().into());
    for _ in 0..3 {
        let buffer = pool.take().unwrap();
        driver.file(
            0,
            FileOp::Read {
                file: Arc::clone(&file),
                offset: 0,
                buffer,
                len: 100,
                waits: false,
            },
        );
        driver.submit_and_wait(None).unwrap();
        assert!(matches!(
            driver.next_completion(),
            Some(Completion::File { result: Ok(_), .. })
        ));
    }
    if let crate::Availability::No(reason) = driver.registered_buffers() {
        eprintln!("{reason}");
        return;
    }
    assert_eq!(pinned(&driver), 1);
    driver.trim();
    assert_eq!(pinned(&driver), 0);
}

#[test]
fn more_operations_than_entries_all_complete() {
    let pool = Pool::new(64).unwrap();
    let Some(mut driver) = driver(8, &pool) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), vec![9; 1 << 20]).unwrap();
    let file: Arc<OwnedFd> = Arc::new(std::fs::File::open(dir.path().join("f")).unwrap().into());
    let mut done = 0;
    for round in 0..20u64 {
        while let Some(buffer) = pool.take() {
            let len = buffer.spare_len();
            driver.file(
                round,
                FileOp::Read {
                    file: Arc::clone(&file),
                    offset: 0,
                    buffer,
                    len,
                    waits: false,
                },
            );
            driver.file(
                round,
                FileOp::Fstat {
                    file: Arc::clone(&file),
                },
            );
        }
        while driver.in_flight() > 0 {
            driver
                .submit_and_wait(Some(Duration::from_secs(10)))
                .unwrap();
            while let Some(Completion::File { result, .. }) = driver.next_completion() {
                done += 1;
                match result.unwrap() {
                    FileDone::Read { mut buffer, bytes } => {
                        assert!(
                            bytes == buffer.spare_len()
                                && buffer.spare_mut().iter().all(|&byte| byte == 9)
                        );
                    }
                    FileDone::Stat(stat) => assert_eq!(stat.size, 1 << 20),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    assert_eq!((done, pool.in_use()), (20 * 64 * 2, 0));
}

#[test]
fn polls_that_were_replaced_or_cancelled_leave_nothing() {
    const STREAMS: usize = 100;
    let pool = Pool::new(1).unwrap();
    let Some(mut driver) = driver(8, &pool) else {
        return;
    };
    let listener = crate::TcpListener::bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
    let address = listener.local_addr().unwrap();
    let (ids, _peers): (Vec<TcpId>, Vec<std::net::TcpStream>) = (0..STREAMS)
        .map(|_| {
            let peer = std::net::TcpStream::connect(address).unwrap();
            let (stream, _) = listener.accept().unwrap().unwrap();
            (driver.add_tcp(TcpSocket::Stream(stream)), peer)
        })
        .unzip();
    let submit = |driver: &mut UringDriver| {
        // More entries than the queue takes need several turns.
        for _ in 0..STREAMS {
            driver.submit_and_wait(Some(Duration::ZERO)).unwrap();
        }
    };
    for _ in 0..3 {
        for interest in [Interest::READ, Interest::BOTH] {
            for &id in &ids {
                driver.watch(id, interest).unwrap();
            }
            submit(&mut driver);
        }
        let told = std::iter::from_fn(|| driver.next_completion()).count();
        assert_eq!(told, STREAMS);
        // What is in flight besides: the wait for a wake.
        assert_eq!(driver.held.ops.len(), 1);
    }
    for &id in &ids {
        driver.watch(id, Interest::READ).unwrap();
    }
    submit(&mut driver);
    assert_eq!(driver.held.ops.len(), 1 + STREAMS);
    for &id in &ids {
        driver.remove_tcp(id).unwrap();
    }
    submit(&mut driver);
    assert_eq!(driver.held.ops.len(), 1);
    assert!(driver.next_completion().is_none());
    assert!(driver.held.tcp.is_empty());
}
