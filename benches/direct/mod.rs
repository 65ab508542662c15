//! The engine without handles: a benchmark's session drives the same workers, connections and
//! sockets, and no thread of a program has to be woken.

use std::time::Duration;

use hdrhistogram::Histogram;
use landro::engine::Grant;
use landro::proto::Event;
use landro::proto::session::{BenchWork, Request};

use crate::ends::Ends;

/// As long as a gigabyte takes.
const BULK_DURATION: Duration = Duration::from_millis(1_400);
/// As long as the requests by handles take.
const ECHO_DURATION: Duration = Duration::from_millis(600);

/// A daemon that nobody may copy from or to.
pub struct Direct(Ends);

impl Direct {
    pub fn start() -> Direct {
        let nothing = Grant {
            read: false,
            write: false,
        };
        Direct(Ends::start("/".into(), nothing))
    }

    /// MB/s of one stream after the other on a new connection.
    pub fn bulk(&self) -> f64 {
        let mut megabytes_per_second = None;
        self.run(BenchWork::Send, BULK_DURATION, |event| {
            if let Event::Benched { bytes, elapsed } = event {
                megabytes_per_second = Some(bytes as f64 / 1e6 / elapsed.as_secs_f64());
            }
        });
        megabytes_per_second.expect("how much it was")
    }

    /// Medians and 99th percentiles of round trips of so many bytes on a new connection.
    pub fn requests(&self, size_bytes: usize) -> (Duration, Duration) {
        let mut taken = Histogram::<u64>::new(3).expect("a histogram");
        self.run(BenchWork::Echo { size_bytes }, ECHO_DURATION, |event| {
            let Event::RoundTrips(trips) = event else {
                return;
            };
            for trip in trips {
                let nanos = trip.as_nanos() as u64;
                taken.record(nanos).expect("it grows with what it is told");
            }
        });
        assert!(!taken.is_empty(), "no round trip was told of");
        let at = |quantile| Duration::from_nanos(taken.value_at_quantile(quantile));
        (at(0.5), at(0.99))
    }

    fn run(&self, work: BenchWork, duration: Duration, hear: impl FnMut(Event)) {
        self.0.run(Request::Bench { work, duration }, 1, hear);
    }
}
