//! The command line: one value for both directions or two, `THERE,BACK`, with the units people
//! write.

use std::net::{SocketAddr, ToSocketAddrs};

use clap::Parser;

use crate::link::{Burst, Shape};

/// The fastest link that is emulated, per direction. Measured on two cores (virtual, Zen 5, Linux
/// 6.18) which also ran both ends of a flood of 2.5 Gbit/s (`iperf -u`, 1472 bytes): 1 Gbit/s
/// delivered 981.5 Mbit/s of payload, which is all that fits; of 1.5 Gbit/s a tenth was missing.
pub const MAX_RATE_BPS: u64 = 1_000_000_000;

/// Memory for packets on the way, both directions together.
pub const MAX_HELD_BYTES: u64 = 1 << 30;

/// A long, slow or lossy path in user space: relays UDP datagrams, delayed and dropped as a seed
/// says
#[derive(Parser, Debug)]
#[command(name = "landro-emulator", version, max_term_width = 110, after_help = NOTES)]
pub struct Arguments {
    /// Where clients send to; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", value_parser = address)]
    pub listen: SocketAddr,
    /// Where their datagrams are sent on to, from a socket of its own for each client
    #[arg(long, value_name = "ADDR:PORT", value_parser = address)]
    pub to: SocketAddr,
    /// Bits per second: K, M, G are powers of 1000
    #[arg(long, value_name = "BITS", value_parser = both_ways(rate))]
    pub rate: BothWays<u64>,
    /// One-way delay, as in 50ms or 200us
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = both_ways(time_ns))]
    pub delay: BothWays<u64>,
    /// Up to this much more delay, drawn for each packet; the order is kept
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = both_ways(time_ns))]
    pub jitter: BothWays<u64>,
    /// Bytes of packets that wait for the wire; who comes when it is full is dropped [default: 100
    /// ms of the rate]
    #[arg(long, value_name = "BYTES", value_parser = both_ways(number))]
    pub queue: Option<BothWays<u64>>,
    /// Random loss in percent
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = both_ways(share))]
    pub loss: BothWays<f64>,
    /// Loss in bursts (Gilbert and Elliott): percent of packets at which a burst begins, percent of
    /// its packets at which it ends, and percent lost within [default of the last: 100]
    #[arg(long, value_name = "ENTER:LEAVE[:LOSS]", value_parser = both_ways(burst))]
    pub burst_loss: Option<BothWays<Burst>>,
    /// Percent of packets that eight others may overtake
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = both_ways(share))]
    pub reorder: BothWays<f64>,
    /// Percent of packets that arrive twice
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = both_ways(share))]
    pub duplicate: BothWays<f64>,
    /// Of every decision: the same seed treats the n-th packet of a direction the same way
    /// [default: a random one]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

const NOTES: &str = "\
Every value may be two, THERE,BACK: --rate 100M,20M. All clients share the link.
Rate, queue and sizes are of IP packets: UDP payload plus 28 bytes (IPv4) or 48 (IPv6); no Ethernet framing. Packets
above 1500 bytes are dropped, as DF packets are by Ethernet. At SIGINT or SIGTERM one JSON line tells what happened.
The link's times count from the kernel's receive time stamps, so its rate is exact. Packets leave later than that by
what timers and other programs cost, 0.1 to 0.3 ms on a machine with a core to spare; `lateness_us` in the JSON line
tells, and `warnings` says when it was too much. Where cores are busy, run it as `chrt --fifo 1 landro-emulator …`.";

/// A value for each direction.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct BothWays<T> {
    pub there: T,
    pub back: T,
}

fn both_ways<T: Copy + Send + Sync + 'static>(
    parse: fn(&str) -> Result<T, String>,
) -> impl Fn(&str) -> Result<BothWays<T>, String> + Clone + Send + Sync + 'static {
    move |text| {
        let (there, back) = text.split_once(',').unwrap_or((text, text));
        Ok(BothWays {
            there: parse(there)?,
            back: parse(back)?,
        })
    }
}

impl Arguments {
    /// The two directions.
    ///
    /// # Errors
    /// What would need more memory than there is for it.
    pub fn shapes(&self) -> Result<BothWays<Shape>, String> {
        let shape = |of: fn(&BothWays<u64>) -> u64, share: fn(&BothWays<f64>) -> f64, burst| {
            let rate_bps = of(&self.rate);
            Shape {
                rate_bps,
                delay_ns: of(&self.delay),
                jitter_ns: of(&self.jitter),
                queue_bytes: self.queue.as_ref().map_or(rate_bps / 8 / 10, of),
                loss: share(&self.loss),
                burst,
                reorder: share(&self.reorder),
                duplicate: share(&self.duplicate),
            }
        };
        let shapes = BothWays {
            there: shape(
                |both| both.there,
                |both| both.there,
                self.burst_loss.map(|both| both.there),
            ),
            back: shape(
                |both| both.back,
                |both| both.back,
                self.burst_loss.map(|both| both.back),
            ),
        };
        let held_bytes = shapes.there.held_bytes() + shapes.back.held_bytes();
        if held_bytes > MAX_HELD_BYTES {
            return Err(format!(
                "rate × delay and the queues may hold {} MB of packets, more than the {} MB there are for them",
                held_bytes / 1_000_000,
                MAX_HELD_BYTES / 1_000_000
            ));
        }
        Ok(shapes)
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let mut found = text
        .to_socket_addrs()
        .map_err(|error| format!("as in 198.18.0.1:5000; {error}"))?;
    found.next().ok_or_else(|| "has no address".into())
}

fn rate(text: &str) -> Result<u64, String> {
    let rate_bps = number(text)?;
    if rate_bps > MAX_RATE_BPS {
        return Err(format!(
            "this emulator keeps at most {} Mbit/s honestly; for faster wires use network namespaces (perf/lab)",
            MAX_RATE_BPS / 1_000_000
        ));
    }
    if rate_bps < 1000 {
        Err("at least 1K".into())
    } else {
        Ok(rate_bps)
    }
}

/// A number with K, M or G.
fn number(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 1e3),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1e6),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 1e9),
        _ => (text, 1.0),
    };
    Ok((plain(digits, "as in 1500, 64K or 1.25M")? * factor).round() as u64)
}

fn time_ns(text: &str) -> Result<u64, String> {
    // Longer than any path on earth, and the sum of a few of them fits in 64 bits of nanoseconds.
    const LONGEST_NS: f64 = 10e9;
    let units = [
        ("ns", 1.0),
        ("us", 1e3),
        ("µs", 1e3),
        ("ms", 1e6),
        ("s", 1e9),
    ];
    let found = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)));
    let (digits, factor) = found.ok_or("a unit is missing: as in 50ms, 200us or 1s")?;
    let time_ns = plain(digits, "as in 50ms, 200us or 1s")? * factor;
    if time_ns > LONGEST_NS {
        Err("at most 10s".into())
    } else {
        Ok(time_ns.round() as u64)
    }
}

fn share(text: &str) -> Result<f64, String> {
    let percent = plain(
        text.strip_suffix('%').unwrap_or(text),
        "a percentage, as in 0.1",
    )?;
    if percent > 100.0 {
        Err("a percentage is at most 100".into())
    } else {
        Ok(percent / 100.0)
    }
}

fn burst(text: &str) -> Result<Burst, String> {
    let parts = text
        .split(':')
        .map(share)
        .collect::<Result<Vec<f64>, String>>()?;
    match parts[..] {
        [enter, leave] => Ok(Burst {
            enter,
            leave,
            loss: 1.0,
        }),
        [enter, leave, loss] => Ok(Burst { enter, leave, loss }),
        _ => Err("as in 0.1:20, or 0.1:20:50".into()),
    }
}

fn plain(digits: &str, expected: &str) -> Result<f64, String> {
    let value: f64 = digits.parse().map_err(|_| expected.to_string())?;
    if value.is_finite() && value >= 0.0 {
        Ok(value)
    } else {
        Err(expected.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &[&str]) -> Result<Arguments, clap::Error> {
        let always = [
            "landro-emulator",
            "--listen",
            "127.0.0.1:0",
            "--to",
            "127.0.0.1:1",
        ];
        Arguments::try_parse_from(always.iter().chain(options))
    }

    #[test]
    fn units_and_directions() {
        let args = parsed(&[
            "--rate",
            "100M,20M",
            "--delay",
            "50ms",
            "--loss",
            "0.1,0",
            "--burst-loss",
            "0.1:20",
        ]);
        let shapes = args.unwrap().shapes().unwrap();
        assert_eq!(
            (shapes.there.rate_bps, shapes.back.rate_bps),
            (100_000_000, 20_000_000)
        );
        assert_eq!(
            (shapes.there.delay_ns, shapes.back.delay_ns),
            (50_000_000, 50_000_000)
        );
        assert_eq!((shapes.there.loss, shapes.back.loss), (0.001, 0.0));
        assert_eq!(
            shapes.there.burst,
            Some(Burst {
                enter: 0.001,
                leave: 0.2,
                loss: 1.0
            })
        );
        // 100 ms of each rate.
        assert_eq!(
            (shapes.there.queue_bytes, shapes.back.queue_bytes),
            (1_250_000, 250_000)
        );
        let args = parsed(&["--rate", "1.5M", "--delay", "200us", "--queue", "1.25M,64K"]).unwrap();
        let shapes = args.shapes().unwrap();
        assert_eq!(
            (shapes.there.rate_bps, shapes.there.delay_ns),
            (1_500_000, 200_000)
        );
        assert_eq!(
            (shapes.there.queue_bytes, shapes.back.queue_bytes),
            (1_250_000, 64_000)
        );
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let beyond = (MAX_RATE_BPS + 1).to_string();
        let said = parsed(&["--rate", &beyond]).unwrap_err().to_string();
        assert!(
            said.contains("at most") && said.contains("Mbit/s"),
            "{said}"
        );
        for wrong in ["0", "-1", "fast", "nan", "100M,2000G"] {
            assert!(parsed(&["--rate", wrong]).is_err(), "{wrong}");
        }
        for (option, value) in [
            ("--delay", "50"),
            ("--delay", "11s"),
            ("--loss", "101"),
            ("--burst-loss", "1"),
        ] {
            assert!(
                parsed(&["--rate", "1M", option, value]).is_err(),
                "{option} {value}"
            );
        }
        let args = parsed(&["--rate", "1G", "--delay", "10s"]).unwrap();
        assert!(args.shapes().unwrap_err().contains("MB"));
    }
}
