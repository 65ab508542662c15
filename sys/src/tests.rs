//! Both backends through the public interface: the same operations must give the same completions.

use std::net::SocketAddr;
use std::time::Duration;

use crate::*;

mod full;
mod life;
mod net;
mod property;
mod tcp;
mod tcp_life;

/// What does not come within this is lost. A disk that others write to takes many seconds for an
/// fsync.
const GIVE_UP: Duration = Duration::from_secs(60);

/// The backends this machine has; io_uring may be forbidden, the other is always there.
fn backends() -> Vec<Backend> {
    match Caps::probe().io_uring {
        Availability::Yes => vec![Backend::IoUring, Backend::Poll],
        Availability::No(reason) => {
            eprintln!("testing the poll backend only: {reason}");
            vec![Backend::Poll]
        }
    }
}

fn pool_and_driver(backend: Backend) -> (Pool, Driver) {
    let pool = Pool::new(16).unwrap();
    let driver = Driver::new(
        backend,
        &DriverConfig {
            recv_buffers: 8,
            queue_entries: 64,
        },
        &pool,
    )
    .unwrap();
    (pool, driver)
}

fn options() -> UdpOptions {
    UdpOptions {
        recv_buffer_bytes: 4 << 20,
        send_buffer_bytes: 1 << 20,
        reuse_port: false,
    }
}

fn bind(address: &str) -> UdpSocket {
    UdpSocket::bind(address.parse().unwrap(), &options()).unwrap()
}

/// A socket of the driver and its address.
fn add(driver: &mut Driver, address: &str) -> (SocketId, SocketAddr) {
    let socket = bind(address);
    let address = socket.local_addr().unwrap();
    (driver.add_socket(socket).unwrap(), address)
}

fn std_socket(address: &str) -> (std::net::UdpSocket, SocketAddr) {
    let socket = std::net::UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(GIVE_UP)).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// A port of loopback that answers as one nobody has, and that nobody can get meanwhile: a
/// connected socket takes nothing from others.
fn closed_port() -> (std::net::UdpSocket, SocketAddr) {
    let (socket, address) = std_socket("127.0.0.1:0");
    socket.connect("127.0.0.1:9").unwrap();
    (socket, address)
}

/// Waits for the next completion; panics when there is none for [`GIVE_UP`].
fn next(driver: &mut Driver) -> Completion {
    const STEP: Duration = Duration::from_millis(10);
    for _ in 0..GIVE_UP.as_millis() / STEP.as_millis() {
        if let Some(completion) = driver.next_completion() {
            return completion;
        }
        driver.submit_and_wait(Some(STEP)).unwrap();
    }
    panic!("no completion");
}

/// Runs one file operation through the driver.
fn file(driver: &mut Driver, op: FileOp) -> std::io::Result<FileDone> {
    driver.file(77, op);
    loop {
        if let Completion::File { token: 77, result } = next(driver) {
            return result;
        }
    }
}

/// Sends `payload` as runs of one buffer and waits until they have left.
fn send(
    driver: &mut Driver,
    socket: SocketId,
    payload: &[u8],
    runs: Vec<Run>,
    to: SocketAddr,
) -> std::io::Result<usize> {
    let mut buffer = SendBuffer::new();
    buffer[..payload.len()].copy_from_slice(payload);
    driver.send(
        5,
        SendRun {
            socket,
            buffer,
            runs,
            to,
            from: None,
        },
    );
    loop {
        if let Completion::Sent {
            token: 5, result, ..
        } = next(driver)
        {
            return result;
        }
    }
}

/// Receives until `count` datagrams are there, split where GRO joined them.
fn receive(driver: &mut Driver, count: usize) -> Vec<Vec<u8>> {
    let mut datagrams = Vec::new();
    while datagrams.len() < count {
        if let Completion::Received(mut received) = next(driver) {
            let segment_bytes = received.segment_bytes();
            datagrams.extend(
                received
                    .payload_mut()
                    .chunks(segment_bytes)
                    .map(<[u8]>::to_vec),
            );
            driver.recycle(received);
        }
    }
    datagrams
}
