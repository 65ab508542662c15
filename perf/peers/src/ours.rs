//! landro: an engine of one worker on each side, its handles polled by the same runtime as the
//! others.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use landro::{
    Connection, Engine, Fingerprint, Identity, Listener, PeerTrust, QuicConfig, RecvStream,
    SendStream,
};

use crate::transport::{Accepts, CLIENTS, Connects, Dials, PROTOCOL, Reads, Result, Setup, Writes};

/// Both sides' identities, for both sides to read.
const SERVER: &str = "landro-server.pem";

fn client_name(number: usize) -> String {
    format!("landro-client-{number}.pem")
}

pub fn make_identities(setup: &Setup) -> Result<()> {
    let clients = (0..CLIENTS).map(client_name);
    for name in clients.chain([SERVER.to_owned()]) {
        fs::write(setup.trust.join(name), Identity::generate()?.to_pem()?)?;
    }
    Ok(())
}

fn identity(setup: &Setup, name: &str) -> Result<Identity> {
    let pem = fs::read_to_string(setup.trust.join(name))?;
    Ok(Identity::from_pem(&pem)?)
}

fn quic(setup: &Setup) -> QuicConfig {
    // Without discovery packets have that size from the end of the handshake on, as with the
    // others.
    QuicConfig::auto()
        .udp_payload(usize::from(setup.udp_payload_bytes))
        .mtu_discovery(false)
}

pub struct Client {
    engine: Engine,
    server: Fingerprint,
}

pub fn client(setup: &Setup, number: usize) -> Result<Client> {
    let engine = Engine::builder()
        .protocol(PROTOCOL)
        .quic(quic(setup))
        .identity(identity(setup, &client_name(number))?)
        .start()?;
    let server = identity(setup, SERVER)?.fingerprint();
    Ok(Client { engine, server })
}

impl Dials for Client {
    type Connection = Connection;

    async fn connect(&self, to: SocketAddr) -> Result<Connection> {
        let trust = PeerTrust::Pinned(self.server);
        Ok(self.engine.connect(&to.to_string(), trust).await?)
    }
}

pub fn server(setup: &Setup) -> Result<Listener> {
    let clients = (0..CLIENTS).map(|number| {
        let client = identity(setup, &client_name(number))?;
        Result::Ok(client.fingerprint())
    });
    let engine = Engine::builder()
        .protocol(PROTOCOL)
        .quic(quic(setup))
        .identity(identity(setup, SERVER)?)
        .listen((Ipv4Addr::LOCALHOST, 0).into())
        .accept(PeerTrust::OneOf(clients.collect::<Result<_>>()?))
        .start()?;
    Ok(engine.listener())
}

impl Accepts for Listener {
    type Connection = Connection;

    fn address(&self) -> Result<SocketAddr> {
        Ok(*self.addresses().first().ok_or("no address")?)
    }

    async fn accept(&mut self) -> Option<Connection> {
        Listener::accept(self).await
    }
}

impl Connects for Connection {
    type Writer = SendStream;
    type Reader = RecvStream;

    async fn open(&mut self) -> Result<(SendStream, RecvStream)> {
        Ok(self.open_bi().await?)
    }

    async fn accept(&mut self) -> Option<(SendStream, RecvStream)> {
        self.accept_bi().await.ok()
    }
}

impl Writes for SendStream {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        Ok(self.write_bytes(bytes).await?)
    }

    fn finish(&mut self) -> Result<()> {
        Ok(SendStream::finish(self)?)
    }
}

impl Reads for RecvStream {
    async fn read(&mut self) -> Result<Option<Bytes>> {
        Ok(self.read_bytes(usize::MAX).await?)
    }
}
