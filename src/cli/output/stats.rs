//! What `--stats` adds: the transport, the CPU time and the memory of this process.

use std::fmt;

use serde::Serialize;

use super::amount;

use crate::engine::{Carried, ClientEvent, TransportStats};

/// Of this side only; the transport part is missing when no connection came about, or none was
/// needed.
#[derive(Serialize)]
pub struct Stats {
    pub backend: Option<String>,
    /// Why that one was chosen.
    pub backend_reason: Option<String>,
    pub peer: Option<String>,
    /// The kind of lane that the session began on: `quic` or `tls`.
    pub began_on: Option<String>,
    /// Why that one.
    pub began_reason: Option<String>,
    /// Whether the kernel seals and opens in lanes over TLS; null: it was not asked to.
    pub ktls: Option<String>,
    #[serde(flatten)]
    pub transport: Option<TransportFigures>,
    pub cpu_user_seconds: f64,
    pub cpu_system_seconds: f64,
    pub peak_rss_bytes: u64,
}

#[derive(Serialize)]
pub struct TransportFigures {
    pub rtt_us: u64,
    pub min_rtt_us: u64,
    pub sent_packets: u64,
    pub received_packets: u64,
    pub lost_packets: u64,
    pub retransmitted_packets: u64,
    pub cwnd_bytes: u64,
    /// Connections used: more than one when a lane neared its packet limit, and where there were
    /// lanes of several kinds.
    pub lanes: u64,
    /// What crossed in lanes of each kind, with all that it takes.
    pub quic: CarriedFigures,
    pub tls: CarriedFigures,
    pub clear: CarriedFigures,
    /// How often keys of TLS over TCP were renewed, in both directions.
    pub keys_renewed: u64,
    /// Mean packets per sendmsg.
    pub gso_batch: f64,
    /// Mean packets per received message.
    pub gro_batch: f64,
}

#[derive(Serialize)]
pub struct CarriedFigures {
    pub lanes: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

impl From<Carried> for CarriedFigures {
    fn from(carried: Carried) -> CarriedFigures {
        CarriedFigures {
            lanes: carried.lanes,
            sent_bytes: carried.sent_bytes,
            received_bytes: carried.received_bytes,
        }
    }
}

impl From<&TransportStats> for TransportFigures {
    fn from(stats: &TransportStats) -> TransportFigures {
        TransportFigures {
            rtt_us: stats.rtt.as_micros() as u64,
            min_rtt_us: stats.min_rtt.unwrap_or_default().as_micros() as u64,
            sent_packets: stats.sent_packets,
            received_packets: stats.received_packets,
            lost_packets: stats.lost_packets,
            retransmitted_packets: stats.retransmitted_packets,
            cwnd_bytes: stats.cwnd_bytes,
            lanes: stats.lanes,
            quic: stats.quic.into(),
            tls: stats.tls.into(),
            clear: stats.clear.into(),
            keys_renewed: stats.keys_renewed,
            gso_batch: stats.gso_batch_mean,
            gro_batch: stats.gro_batch_mean,
        }
    }
}

impl Stats {
    /// CPU time and memory so far; the rest is for the caller to fill in.
    pub fn of_this_process() -> Stats {
        let (user, system) = landro_sys::cpu::process_cpu_time().unwrap_or_default();
        Stats {
            backend: None,
            backend_reason: None,
            peer: None,
            began_on: None,
            began_reason: None,
            ktls: None,
            transport: None,
            cpu_user_seconds: user.as_secs_f64(),
            cpu_system_seconds: system.as_secs_f64(),
            peak_rss_bytes: landro_sys::cpu::peak_rss_bytes().unwrap_or_default(),
        }
    }
}

/// Bits of file data per second.
pub fn goodput_bps(bytes: u64, seconds: f64) -> u64 {
    if seconds > 0.0 {
        (bytes as f64 * 8.0 / seconds) as u64
    } else {
        0
    }
}

/// What the engine told about the connection.
#[derive(Default)]
pub struct ConnectionSeen {
    backend: Option<(String, String)>,
    peer: Option<String>,
    began: Option<(String, String)>,
    ktls: Option<String>,
    transport: Option<TransportFigures>,
}

impl ConnectionSeen {
    /// Takes what concerns the connection.
    pub fn note(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Connected {
                fingerprint,
                address,
                backend,
                backend_reason,
                kind,
                kind_reason,
                ktls,
            } => {
                self.ktls = ktls;
                self.began = Some((kind.to_string(), kind_reason.to_owned()));
                self.backend = Some((backend.to_string(), backend_reason));
                self.peer = Some(format!("{address} {fingerprint}"));
            }
            ClientEvent::Stats(stats) => self.transport = Some(TransportFigures::from(&*stats)),
            ClientEvent::Session(_) | ClientEvent::Lost { .. } | ClientEvent::Ended(_) => {}
        }
    }

    pub fn stats(self) -> Stats {
        let (backend, backend_reason) = self.backend.unzip();
        let (began_on, began_reason) = self.began.unzip();
        Stats {
            backend,
            backend_reason,
            peer: self.peer,
            began_on,
            began_reason,
            ktls: self.ktls,
            transport: self.transport,
            ..Stats::of_this_process()
        }
    }
}

/// One line per subject, as people read it.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(backend), Some(reason)) = (&self.backend, &self.backend_reason) {
            writeln!(f, "backend   {backend} ({reason})")?;
        }
        if let Some(peer) = &self.peer {
            writeln!(f, "peer      {peer}")?;
        }
        if let (Some(kind), Some(reason)) = (&self.began_on, &self.began_reason) {
            writeln!(f, "began     on {kind} ({reason})")?;
        }
        if let Some(ktls) = &self.ktls {
            writeln!(f, "ktls      {ktls}")?;
        }
        if let Some(t) = &self.transport {
            for (name, kind) in [("quic", &t.quic), ("tls", &t.tls), ("clear", &t.clear)] {
                if kind.lanes > 0 {
                    let (sent, received) = (kind.sent_bytes, kind.received_bytes);
                    writeln!(
                        f,
                        "{name:<9} {}, {} sent, {} received",
                        amount::count(kind.lanes, "lane", "lanes"),
                        amount::bytes(sent),
                        amount::bytes(received)
                    )?;
                }
            }
            if t.keys_renewed > 0 {
                writeln!(f, "keys      renewed {} times", t.keys_renewed)?;
            }
            let percent = 100.0 * t.lost_packets as f64 / t.sent_packets.max(1) as f64;
            writeln!(f, "rtt       {} us, least {} us", t.rtt_us, t.min_rtt_us)?;
            writeln!(
                f,
                "packets   {} sent, {} received",
                t.sent_packets, t.received_packets
            )?;
            writeln!(f, "loss      {} packets ({percent:.3} %)", t.lost_packets)?;
            writeln!(f, "resent    {} packets", t.retransmitted_packets)?;
            writeln!(f, "cwnd      {}", amount::bytes(t.cwnd_bytes))?;
            writeln!(
                f,
                "batches   {:.1} packets per send, {:.1} per receive",
                t.gso_batch, t.gro_batch
            )?;
        }
        writeln!(
            f,
            "cpu       {:.3} s user, {:.3} s system",
            self.cpu_user_seconds, self.cpu_system_seconds
        )?;
        write!(
            f,
            "memory    {} at most",
            amount::bytes(self.peak_rss_bytes)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goodput_counts_bits() {
        assert_eq!(goodput_bps(1000, 2.0), 4000);
        assert_eq!(goodput_bps(1000, 0.0), 0);
    }
}
