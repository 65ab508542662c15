//! The handshake, by rustls; then its keys are taken out, and what makes the next ones.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{AlertDescription, CommonState, Error, ExtractedSecrets};

use super::pin::Shown;
use super::record::TrafficKey;
use super::setup::TcpSetup;
use crate::carrier::{ALPN, CERTIFICATE_REQUIRED, CRYPTO_ERROR, CloseReason, identity_alert};
use crate::ids::Fingerprint;

/// A side of a handshake.
enum TlsSide {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// A handshake under way.
pub(super) struct TlsHandshake {
    side: TlsSide,
    shown: Shown,
}

/// What is to be done after a step of a handshake.
#[derive(PartialEq, Eq)]
enum Next {
    Again,
    Wait,
    Finish,
}

/// The keys of both directions, and how to get their successors.
pub(super) struct TlsKeys {
    pub seal: TrafficKey,
    pub open: TrafficKey,
    renewal: Renewal,
}

/// rustls's part of a connection after its handshake: the traffic secrets.
enum Renewal {
    Client(Box<KernelConnection<ClientConnectionData>>),
    Server(Box<KernelConnection<ServerConnectionData>>),
}

impl TlsHandshake {
    pub fn new(setup: &TcpSetup) -> Result<TlsHandshake, Error> {
        let (side, shown) = if setup.is_server {
            let (server, shown) = setup.server_handshake()?;
            (TlsSide::Server(server), shown)
        } else {
            let (client, shown) = setup.client_handshake()?;
            (TlsSide::Client(client), shown)
        };
        Ok(TlsHandshake { side, shown })
    }

    /// Whose certificate the peer shows, proven or not.
    pub fn shown(&self) -> Option<Fingerprint> {
        self.shown.get().copied()
    }

    /// Goes on with the whole records in `incoming`, which are to be there again, less the ones at
    /// the front that are said to be done with: how many bytes, and whether the handshake is over.
    /// The caller gives one more record with each call, so that none of what follows the handshake
    /// is taken.
    pub fn go_on(
        &mut self,
        incoming: &mut [u8],
        out: &mut Vec<u8>,
    ) -> Result<(usize, bool), CloseReason> {
        let mut done_with = 0;
        let mut failure = None;
        loop {
            // Once all is told, rustls is not asked again: it would look at the same record, and
            // takes a second alert for a fault of ours.
            if let Some(reason) = &failure
                && !self.common().wants_write()
            {
                return Err(CloseReason::clone(reason));
            }
            let rest = &mut incoming[done_with..];
            let (bytes, step) = match &mut self.side {
                TlsSide::Client(client) => act(client.process_tls_records(rest), out),
                TlsSide::Server(server) => act(server.process_tls_records(rest), out),
            };
            done_with += bytes;
            match (step, &failure) {
                (Ok(Next::Again), _) => {}
                // rustls queued an alert for what it refused. It is told in the next rounds, with
                // the rest of the input: rustls remembers places in it, and panics without.
                (Err(error), None) => failure = Some(reason_of(&error)),
                (_, Some(reason)) => return Err(reason.clone()),
                (Ok(next), None) => {
                    let is_over = next == Next::Finish && !self.common().is_handshaking();
                    return Ok((done_with, is_over));
                }
            }
        }
    }

    fn common(&self) -> &CommonState {
        match &self.side {
            TlsSide::Client(client) => client,
            TlsSide::Server(server) => server,
        }
    }

    /// The keys, after the end of the handshake.
    pub fn finish(self) -> Result<TlsKeys, CloseReason> {
        // rustls refuses what is offered wrongly, but not that nothing is.
        if self.common().alpn_protocol() != Some(ALPN) {
            let what = "the peer speaks TLS, but not landro's protocol in it";
            return Err(CloseReason::Transport(what.to_owned()));
        }
        let extracted = match self.side {
            TlsSide::Client(client) => client
                .dangerous_into_kernel_connection()
                .map(|(secrets, rest)| (secrets, Renewal::Client(Box::new(rest)))),
            TlsSide::Server(server) => server
                .dangerous_into_kernel_connection()
                .map(|(secrets, rest)| (secrets, Renewal::Server(Box::new(rest)))),
        };
        let (secrets, renewal) = extracted.map_err(|error| reason_of(&error))?;
        let ExtractedSecrets { tx, rx } = secrets;
        let keys = TrafficKey::new(tx.0, tx.1).zip(TrafficKey::new(rx.0, rx.1));
        let (seal, open) = keys.ok_or_else(no_key)?;
        Ok(TlsKeys {
            seal,
            open,
            renewal,
        })
    }
}

fn no_key() -> CloseReason {
    CloseReason::Transport("no key for this cipher suite".to_owned())
}

/// Does what rustls asks for; how many bytes of the input it is done with.
fn act<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    out: &mut Vec<u8>,
) -> (usize, Result<Next, Error>) {
    let state = match status.state {
        Ok(state) => state,
        Err(error) => return (status.discard, Err(error)),
    };
    let next = match state {
        ConnectionState::EncodeTlsData(mut data) => {
            let at = out.len();
            if let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) {
                out.resize(at + size.required_size, 0);
                let _ = data.encode(&mut out[at..]);
            }
            Next::Again
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Next::Again
        }
        ConnectionState::BlockedHandshake => Next::Wait,
        ConnectionState::WriteTraffic(_) => Next::Finish,
        // The others are of early data, which is off, and of what comes after the handshake.
        _ => return (status.discard, Err(Error::HandshakeNotComplete)),
    };
    (status.discard, Ok(next))
}

/// Why a handshake failed, in our words.
fn reason_of(error: &Error) -> CloseReason {
    let refused = |alert| CloseReason::IdentityRefused {
        by_peer: false,
        alert,
    };
    match error {
        Error::InvalidCertificate(why) => refused(AlertDescription::from(why.clone()).into()),
        Error::NoCertificatesPresented => refused(CERTIFICATE_REQUIRED),
        Error::AlertReceived(alert) => by_peer((*alert).into()),
        other => CloseReason::Transport(format!("TLS: {other}")),
    }
}

/// The peer's alert as the reason of a close.
pub(super) fn by_peer(alert: u8) -> CloseReason {
    let code = CRYPTO_ERROR + u64::from(alert);
    match identity_alert(code) {
        Some(alert) => CloseReason::IdentityRefused {
            by_peer: true,
            alert,
        },
        None => CloseReason::PeerTransport {
            code,
            reason: format!("TLS alert {alert}"),
        },
    }
}

impl TlsKeys {
    /// Goes on to the next key to seal with: the peer has been told, in the last record of the one
    /// before.
    pub fn renew_seal(&mut self) -> Result<(), CloseReason> {
        let renewed = match &mut self.renewal {
            Renewal::Client(client) => client.update_tx_secret(),
            Renewal::Server(server) => server.update_tx_secret(),
        };
        let (sequence, secrets) = renewed.map_err(|error| reason_of(&error))?;
        self.seal = TrafficKey::new(sequence, secrets).ok_or_else(no_key)?;
        Ok(())
    }

    /// The same in the other direction.
    pub fn renew_open(&mut self) -> Result<(), CloseReason> {
        let renewed = match &mut self.renewal {
            Renewal::Client(client) => client.update_rx_secret(),
            Renewal::Server(server) => server.update_rx_secret(),
        };
        let (sequence, secrets) = renewed.map_err(|error| reason_of(&error))?;
        self.open = TrafficKey::new(sequence, secrets).ok_or_else(no_key)?;
        Ok(())
    }
}
