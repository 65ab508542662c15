//! A daemon's numbers as of now: what its workers counted, and what is looked up for the moment.

use std::sync::Arc;
use std::time::Duration;

use landro_sys::Backend;

use crate::ids::WorkerId;
use crate::metrics::{Addend, Metric, Snapshot};
use crate::worker::{self, Shared};

/// Tells of a daemon's numbers, as often as it is asked, from any thread. Workers are not waited
/// for: what each of them counts as it happens is as of now, what it looks up as of the last second
/// in which something happened to it.
#[derive(Clone)]
pub struct DaemonNumbers {
    shared: Arc<Shared>,
    backend: (Backend, String),
    /// Seconds since the epoch.
    started_at: u64,
}

impl DaemonNumbers {
    pub(super) fn new(shared: Arc<Shared>, backend: (Backend, String)) -> DaemonNumbers {
        let now = worker::before(Duration::ZERO);
        DaemonNumbers {
            shared,
            backend,
            started_at: u64::try_from(now).unwrap_or(0),
        }
    }

    /// The backend that the daemon began on, and why.
    pub fn backend(&self) -> (Backend, &str) {
        (self.backend.0, &self.backend.1)
    }

    /// All of it.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = self.shared.metrics.snapshot();
        let budget = &self.shared.budget;
        snapshot.look_up(Metric::MemoryBudget, [], budget.total_bytes());
        for (addend, part) in [
            (Addend::Windows, budget.windows()),
            (Addend::Quic, budget.held()),
            (Addend::Handshakes, budget.handshakes()),
        ] {
            snapshot.look_up(Metric::Memory, [addend as usize], part.used_bytes);
            snapshot.look_up(Metric::MemoryLimit, [addend as usize], part.limit_bytes);
        }
        for worker in 0..self.shared.workers {
            let waiting = self.shared.waiting(WorkerId(worker)) as u64;
            snapshot.look_up_of(worker.into(), Metric::MailWaiting, [], waiting);
        }
        let ns = |time: Duration| time.as_nanos() as u64;
        if let Ok((user, system)) = landro_sys::cpu::process_cpu_time() {
            snapshot.look_up(Metric::ProcessCpu, [0], ns(user));
            snapshot.look_up(Metric::ProcessCpu, [1], ns(system));
        }
        let resident = landro_sys::cpu::rss_bytes().unwrap_or(0);
        snapshot.look_up(Metric::ResidentBytes, [], resident);
        let peak = landro_sys::cpu::peak_rss_bytes().unwrap_or(0);
        snapshot.look_up(Metric::PeakResidentBytes, [], peak);
        let started = Duration::from_secs(self.started_at);
        snapshot.look_up(Metric::StartTime, [], ns(started));
        snapshot
    }
}
