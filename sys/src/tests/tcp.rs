//! TCP sockets: bytes through full buffers, what readiness says and when, and what the kernel tells
//! of a connection.

use std::io::{IoSlice, Read, Write};
use std::net::Shutdown;

use socket2::{Domain, SockRef, Socket, Type};

use super::*;

/// As long as something is given the time to happen that must not happen.
const NOTHING: Duration = Duration::from_millis(40);

/// A listener of the driver and its address.
pub(super) fn listen(driver: &mut Driver, address: &str) -> (TcpId, SocketAddr) {
    let listener = TcpListener::bind(address.parse().unwrap(), false).unwrap();
    let address = listener.local_addr().unwrap();
    (driver.add_listener(listener).unwrap(), address)
}

/// The next completion, which says that a TCP socket is ready: to read, to write.
pub(super) fn ready(driver: &mut Driver) -> (TcpId, bool, bool) {
    match next(driver) {
        Completion::Ready {
            id,
            readable,
            writable,
        } => (id, readable, writable),
        other => panic!("{other:?}"),
    }
}

/// Nothing more comes.
pub(super) fn nothing(driver: &mut Driver) {
    driver.submit_and_wait(Some(NOTHING)).unwrap();
    if let Some(completion) = driver.next_completion() {
        panic!("{:?}: {completion:?}", driver.backend());
    }
}

/// What the driver was asked for is with the kernel.
pub(super) fn submit(driver: &mut Driver) {
    driver.submit_and_wait(Some(Duration::ZERO)).unwrap();
    assert!(driver.next_completion().is_none());
}

/// Waits for a connection of `listener`.
pub(super) fn accept(driver: &mut Driver, listener: TcpId) -> (TcpStream, SocketAddr) {
    loop {
        if let Some(accepted) = driver.listener(listener).accept().unwrap() {
            return accepted;
        }
        driver.watch(listener, Interest::READ);
        assert_eq!(ready(driver).0, listener);
    }
}

/// A stream of the driver and its peer.
pub(super) fn pair(driver: &mut Driver) -> (TcpId, std::net::TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
    let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.set_read_timeout(Some(GIVE_UP)).unwrap();
    peer.set_nodelay(true).unwrap();
    let (stream, address) = listener.accept().unwrap().unwrap();
    assert_eq!(address, peer.local_addr().unwrap());
    (driver.add_stream(stream).unwrap(), peer)
}

/// Sends until there is no room, nor comes any while the peer does not read; the number of bytes.
pub(super) fn fill(stream: &TcpStream) -> usize {
    let block = [7; 65_536];
    let mut sent = 0;
    loop {
        let before = sent;
        while let Some(bytes) = stream.send(&[IoSlice::new(&block)]).unwrap() {
            sent += bytes;
        }
        if sent == before {
            return sent;
        }
        // The kernel lets the buffer grow with what is acknowledged.
        std::thread::sleep(NOTHING);
    }
}

/// One end of a connection with something to say.
struct End {
    id: TcpId,
    /// Says again what it hears.
    echoes: bool,
    says: Vec<u8>,
    said: usize,
    listens: bool,
    heard: Vec<u8>,
    heard_all: bool,
    is_done: bool,
    was_full: bool,
}

impl End {
    fn new(id: TcpId, says: Vec<u8>, echoes: bool) -> End {
        End {
            id,
            echoes,
            says,
            said: 0,
            listens: true,
            heard: Vec::new(),
            heard_all: false,
            is_done: false,
            was_full: false,
        }
    }

    /// Everything that is possible now; then what is missing is waited for.
    fn turn(&mut self, driver: &mut Driver) {
        let stream = driver.stream(self.id);
        let mut wants = Interest::NONE;
        let mut buffer = vec![0; 100_000];
        while self.listens && !self.heard_all && !wants.read {
            match stream.receive(&mut buffer).unwrap() {
                Some(0) => self.heard_all = true,
                Some(bytes) if self.echoes => self.says.extend_from_slice(&buffer[..bytes]),
                Some(bytes) => self.heard.extend_from_slice(&buffer[..bytes]),
                None => wants.read = true,
            }
        }
        while self.said < self.says.len() && !wants.write {
            let (one, other) = self.says[self.said..].split_at((self.says.len() - self.said) / 2);
            match stream
                .send(&[IoSlice::new(one), IoSlice::new(other)])
                .unwrap()
            {
                Some(bytes) => self.said += bytes,
                None => {
                    wants.write = true;
                    self.was_full = true;
                    let under_way_bytes = stream.unacknowledged_bytes().unwrap();
                    assert!(stream.unsent_bytes().unwrap() <= under_way_bytes);
                    if under_way_bytes == 0 {
                        // Another core, of a slow machine, has delivered it all meanwhile: there is
                        // room again.
                        let sent = stream.send(&[IoSlice::new(one)]).unwrap();
                        self.said += sent.expect("nothing is under way, and nothing is taken");
                    }
                }
            }
        }
        let said_all = self.said == self.says.len() && (self.heard_all || !self.echoes);
        if said_all && !self.is_done {
            stream.shutdown_write().unwrap();
            self.is_done = true;
        }
        driver.watch(self.id, wants);
    }
}

#[test]
fn megabytes_go_there_and_back_through_full_buffers() {
    for backend in backends() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (_pool, mut driver) = pool_and_driver(backend);
            let (listener, address) = listen(&mut driver, address);
            let stream = TcpStream::connect(address, None, None).unwrap();
            let client = driver.add_stream(stream).unwrap();
            driver.watch(client, Interest::WRITE);
            assert_eq!(ready(&mut driver), (client, false, true));
            assert!(driver.stream(client).finish_connect().unwrap());
            let (stream, peer) = accept(&mut driver, listener);
            let client_address = driver.stream(client).local_addr().unwrap();
            assert_eq!(
                (peer, stream.local_addr().unwrap()),
                (client_address, address)
            );
            assert_eq!(driver.stream(client).peer_addr().unwrap(), address);
            assert_eq!(stream.peer_addr().unwrap(), peer);
            let server = driver.add_stream(stream).unwrap();
            for id in [client, server] {
                let socket = SockRef::from(driver.stream(id));
                socket.set_send_buffer_size(65_536).unwrap();
            }

            let says: Vec<u8> = (0..16u32 << 18).flat_map(u32::to_le_bytes).collect();
            let mut client = End::new(client, says.clone(), false);
            let mut server = End::new(server, Vec::new(), true);
            // As long as nobody hears the echo, both run into full buffers.
            client.listens = false;
            for _ in 0..1_000 {
                client.turn(&mut driver);
                server.turn(&mut driver);
            }
            assert!(client.was_full && server.was_full && !server.is_done);
            client.listens = true;
            client.turn(&mut driver);
            while !(client.heard_all && server.is_done) {
                let (id, ..) = ready(&mut driver);
                let end = if id == client.id {
                    &mut client
                } else {
                    &mut server
                };
                assert_eq!(end.id, id);
                end.turn(&mut driver);
            }
            assert!(client.heard == says, "other bytes came back");
            let info = driver.stream(server.id).info().unwrap();
            // The FIN counts, too.
            let counts = [says.len() as u64, says.len() as u64 + 1];
            assert!(counts.contains(&info.received_bytes), "{info:?}");
            assert!(info.acknowledged_bytes as usize >= says.len(), "{info:?}");
            assert!(info.rtt > Duration::ZERO && info.min_rtt.is_some());
            assert!(info.cwnd_packets > 0 && info.mss_bytes > 500 && info.delivery_rate > 0);
        }
    }
}

#[test]
fn one_arming_gives_one_completion() {
    for backend in backends() {
        let (_pool, mut driver) = pool_and_driver(backend);
        let (id, mut peer) = pair(&mut driver);
        peer.write_all(b"before anybody waits").unwrap();
        nothing(&mut driver);
        driver.watch(id, Interest::READ);
        assert_eq!(ready(&mut driver), (id, true, false));
        // More comes, but nobody waits any more.
        peer.write_all(b"more").unwrap();
        nothing(&mut driver);
        // What is there already is told again.
        driver.watch(id, Interest::READ);
        assert_eq!(ready(&mut driver), (id, true, false));
        let mut buffer = [0; 100];
        assert_eq!(driver.stream(id).receive(&mut buffer).unwrap(), Some(24));
        assert_eq!(driver.stream(id).receive(&mut buffer).unwrap(), None);
        assert_eq!(driver.stream(id).receive(&mut []).unwrap(), None);
        driver.watch(id, Interest::READ);
        nothing(&mut driver);
        peer.write_all(b"waited for").unwrap();
        assert_eq!(ready(&mut driver), (id, true, false));
        driver.watch(id, Interest::BOTH);
        assert_eq!(ready(&mut driver), (id, true, true));
        driver.watch(id, Interest::WRITE);
        assert_eq!(ready(&mut driver), (id, false, true));
        driver.watch(id, Interest::NONE);
        nothing(&mut driver);
    }
}

#[test]
fn armings_merge_until_the_completion() {
    for backend in backends() {
        let (_pool, mut driver) = pool_and_driver(backend);
        let (id, mut peer) = pair(&mut driver);
        // Before the kernel knows of any.
        driver.watch(id, Interest::READ);
        driver.watch(id, Interest::WRITE);
        driver.watch(id, Interest::READ);
        assert_eq!(ready(&mut driver), (id, false, true));
        nothing(&mut driver);
        // When it knows of one already.
        for _ in 0..3 {
            driver.watch(id, Interest::READ);
            submit(&mut driver);
            driver.watch(id, Interest::WRITE);
            assert_eq!(ready(&mut driver), (id, false, true));
            nothing(&mut driver);
        }
        // The completion was of all of them.
        peer.write_all(b"nobody waits").unwrap();
        nothing(&mut driver);
        driver.watch(id, Interest::READ);
        assert_eq!(ready(&mut driver), (id, true, false));
        assert_eq!(driver.stream(id).receive(&mut [0; 100]).unwrap(), Some(12));
        // The other way round: a full buffer is waited for, then something to read.
        fill(driver.stream(id));
        driver.watch(id, Interest::WRITE);
        submit(&mut driver);
        driver.watch(id, Interest::READ);
        submit(&mut driver);
        peer.write_all(b"!").unwrap();
        assert_eq!(ready(&mut driver), (id, true, false));
        nothing(&mut driver);
    }
}

#[test]
fn a_full_buffer_is_told_when_there_is_room() {
    for backend in backends() {
        let (_pool, mut driver) = pool_and_driver(backend);
        let (id, mut peer) = pair(&mut driver);
        let sent = fill(driver.stream(id));
        assert!(driver.stream(id).unsent_bytes().unwrap() > 0);
        driver.watch(id, Interest::WRITE);
        nothing(&mut driver);
        let mut got = vec![0; sent];
        peer.read_exact(&mut got).unwrap();
        assert!(got.iter().all(|&byte| byte == 7));
        assert_eq!(ready(&mut driver), (id, false, true));
        assert_eq!(driver.stream(id).unsent_bytes().unwrap(), 0);
        // More slices than one call takes: as many as it does.
        let parts = vec![IoSlice::new(b"ab"); 3_000];
        assert_eq!(driver.stream(id).send(&parts).unwrap(), Some(2 * 1_024));
        assert_eq!(driver.stream(id).send(&[]).unwrap(), Some(0));
    }
}

#[test]
fn an_end_is_readable_and_writable() {
    for backend in backends() {
        let (_pool, mut driver) = pool_and_driver(backend);
        for armed in [Interest::READ, Interest::BOTH] {
            let (id, peer) = pair(&mut driver);
            driver.watch(id, armed.union(Interest::READ));
            if armed == Interest::READ {
                submit(&mut driver);
            }
            drop(peer);
            while ready(&mut driver) != (id, true, true) {
                // Room alone was told first.
                driver.watch(id, armed);
            }
            assert_eq!(driver.stream(id).receive(&mut [0; 10]).unwrap(), Some(0));
        }
        for armed in [Interest::READ, Interest::WRITE] {
            let (id, peer) = pair(&mut driver);
            fill(driver.stream(id));
            driver.watch(id, armed);
            submit(&mut driver);
            // Closed like this, it says RST and not FIN.
            SockRef::from(&peer)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
            drop(peer);
            assert_eq!(
                ready(&mut driver),
                (id, true, true),
                "{backend:?} {armed:?}"
            );
            let error = driver.stream(id).receive(&mut [0; 10]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET));
            let error = driver.stream(id).send(&[IoSlice::new(b"?")]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPIPE), "and no SIGPIPE");
        }
    }
}

#[test]
fn a_writer_with_a_full_buffer_is_not_told_of_the_peers_end() {
    for backend in backends() {
        let (_pool, mut driver) = pool_and_driver(backend);
        let (id, mut peer) = pair(&mut driver);
        peer.shutdown(Shutdown::Write).unwrap();
        driver.watch(id, Interest::READ);
        assert_eq!(ready(&mut driver), (id, true, true));
        let sent = fill(driver.stream(id));
        // Told here, it would try, find no room, wait, be told, without end.
        driver.watch(id, Interest::WRITE);
        nothing(&mut driver);
        peer.read_exact(&mut vec![0; sent]).unwrap();
        assert_eq!(ready(&mut driver), (id, false, true));
    }
}

#[test]
fn a_refused_connection_says_so_once() {
    for backend in backends() {
        let (_pool, mut driver) = pool_and_driver(backend);
        // Bound, so that nobody else listens there, and not listening.
        let closed = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        closed.bind(&any.into()).unwrap();
        let address = closed.local_addr().unwrap().as_socket().unwrap();
        let id = driver
            .add_stream(TcpStream::connect(address, None, None).unwrap())
            .unwrap();
        driver.watch(id, Interest::WRITE);
        assert_eq!(ready(&mut driver), (id, true, true));
        let stream = driver.stream(id);
        let error = stream.finish_connect().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
        let error = stream.finish_connect().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotConnected);
        assert!(stream.peer_addr().is_err());
    }
}

#[test]
fn a_dual_stack_listener_names_v4_peers_plainly() {
    for backend in backends() {
        let (_pool, mut driver) = pool_and_driver(backend);
        let (listener, address) = listen(&mut driver, "[::]:0");
        for to in ["127.0.0.1", "::1"] {
            let to = SocketAddr::new(to.parse().unwrap(), address.port());
            let peer = std::net::TcpStream::connect(to).unwrap();
            let (stream, from) = accept(&mut driver, listener);
            assert_eq!(from, peer.local_addr().unwrap());
            assert_eq!(stream.peer_addr().unwrap(), from);
            assert_eq!(stream.local_addr().unwrap(), to);
        }
        // Any other v6 address is v6 only.
        let (_, address) = listen(&mut driver, "[::1]:0");
        std::net::TcpListener::bind(("127.0.0.1", address.port())).unwrap();
    }
}

#[test]
fn listeners_share_a_port_when_told_so() {
    let first = TcpListener::bind("127.0.0.1:0".parse().unwrap(), true).unwrap();
    let address = first.local_addr().unwrap();
    let second = TcpListener::bind(address, true).unwrap();
    let error = TcpListener::bind(address, false).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    let peers: Vec<_> = (0..64)
        .map(|_| std::net::TcpStream::connect(address).unwrap())
        .collect();
    let accepted =
        |listener: &TcpListener| std::iter::from_fn(|| listener.accept().unwrap()).count();
    let counts = (accepted(&first), accepted(&second));
    assert_eq!(counts.0 + counts.1, peers.len());
    // 64 connections that all land on one side: once in 2^63.
    assert!(counts.0 > 0 && counts.1 > 0, "{counts:?}");
}

#[test]
fn a_connection_that_died_does_not_end_its_listener() {
    let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
    let address = listener.local_addr().unwrap();
    for _ in 0..5 {
        let peer = std::net::TcpStream::connect(address).unwrap();
        SockRef::from(&peer)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }
    while let Some((dead, _)) = listener.accept().unwrap() {
        assert!(dead.receive(&mut [0; 10]).is_err());
    }
    let peer = std::net::TcpStream::connect(address).unwrap();
    let (_, from) = listener.accept().unwrap().unwrap();
    assert_eq!(from, peer.local_addr().unwrap());
}

#[test]
fn options_are_set() {
    let (_pool, mut driver) = pool_and_driver(Backend::Poll);
    let (accepted, peer) = pair(&mut driver);
    let connected = TcpStream::connect(peer.local_addr().unwrap(), None, None);
    for stream in [driver.stream(accepted), &connected.unwrap()] {
        let socket = SockRef::from(stream);
        assert!(socket.tcp_nodelay().unwrap() && socket.nonblocking().unwrap());
        let flags = nix::fcntl::fcntl(stream, nix::fcntl::FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags, libc::FD_CLOEXEC);
        stream.set_user_timeout(Duration::from_secs(7)).unwrap();
        assert_eq!(
            socket.tcp_user_timeout().unwrap(),
            Some(Duration::from_secs(7))
        );
    }
}

#[test]
fn congestion_control_is_chosen_by_name() {
    let (_pool, mut driver) = pool_and_driver(Backend::Poll);
    let (id, _peer) = pair(&mut driver);
    let stream = driver.stream(id);
    // The kernel is never without it.
    stream.set_congestion("reno").unwrap();
    assert_eq!(stream.congestion().unwrap(), "reno");
    for name in ["nonesuch", "", "longer-than-a-name-may-be", "reno\0"] {
        let error = stream.set_congestion(name).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{name}");
        let text = error.to_string();
        assert!(
            text.contains(&format!("{name:?}")) && text.contains("reno"),
            "{text}"
        );
    }
    assert_eq!(stream.congestion().unwrap(), "reno");
}

#[test]
fn below_the_low_water_mark_nothing_is_told() {
    for backend in backends() {
        let (_pool, mut driver) = pool_and_driver(backend);
        let (id, mut peer) = pair(&mut driver);
        driver.stream(id).set_receive_low_water(1_000).unwrap();
        driver.watch(id, Interest::READ);
        peer.write_all(&[1; 999]).unwrap();
        nothing(&mut driver);
        peer.write_all(&[1]).unwrap();
        assert_eq!(ready(&mut driver), (id, true, false));
        let mut buffer = [0; 2_000];
        assert_eq!(driver.stream(id).receive(&mut buffer).unwrap(), Some(1_000));
        // What is below the mark is told once the mark is below it, or at the end.
        driver.watch(id, Interest::READ);
        peer.write_all(&[2; 10]).unwrap();
        nothing(&mut driver);
        driver.stream(id).set_receive_low_water(5).unwrap();
        assert_eq!(ready(&mut driver), (id, true, false));
        driver.stream(id).set_receive_low_water(usize::MAX).unwrap();
        driver.watch(id, Interest::READ);
        nothing(&mut driver);
        drop(peer);
        assert_eq!(ready(&mut driver), (id, true, true));
        assert_eq!(driver.stream(id).receive(&mut buffer).unwrap(), Some(10));
    }
}
