//! What a worker counts: as it happens, and once a second what others know better.

use landro_sys::{Backend, Pool, SendBuffer};

use super::Worker;
use super::event_loop::Loop;
use super::limits::SEND_BUFFERS;
use crate::disk::Finished;
use crate::metrics::{Addend, BackendKind, Distribution, Metric, Refusal};

impl Loop {
    /// Counts one more.
    pub(crate) fn count<const N: usize>(&self, metric: Metric, labels: [usize; N]) {
        self.numbers.add(metric, labels, 1);
    }

    /// Somebody was not let in. Gives how often that was, for this reason, on this worker.
    pub(crate) fn count_refusal(&self, why: Refusal) -> u64 {
        self.numbers.add(Metric::Refused, [why as usize], 1)
    }

    /// How often somebody was not let in for this reason, on all workers.
    pub(crate) fn refusals(&self, why: Refusal) -> u64 {
        self.shared.metrics.get(Metric::Refused, [why as usize])
    }

    /// An operation on files ended.
    pub(super) fn count_disk(&mut self, done: &Finished) {
        let Some((work, took)) = done.took else {
            return;
        };
        let work = [work as usize];
        self.recorder.record(Distribution::Disk, work, took);
        if done.result.is_err() {
            self.count(Metric::DiskFailures, work);
        }
    }

    /// What the kernel knows of this worker's thread, ring and sockets.
    fn look_up(&mut self, sockets: impl Iterator<Item = landro_sys::SocketId>) {
        let load = self.driver.load();
        let seen = &mut self.lookups;
        (seen.due, seen.looked_at) = (None, self.now);
        let numbers = &self.numbers;
        numbers.set(Metric::RingDepth, [], load.in_flight as u64);
        numbers.set(Metric::RingBacklog, [], load.backlog as u64);
        numbers.add(Metric::RingOverflows, [], load.overflows - seen.overflows);
        seen.overflows = load.overflows;
        if let Ok(cpu) = landro_sys::cpu::thread_cpu_time() {
            let more = cpu.saturating_sub(seen.cpu);
            numbers.add(Metric::WorkerCpu, [], more.as_nanos() as u64);
            seen.cpu = cpu;
        }
        for socket in sockets {
            let at = socket.index();
            if seen.drops.len() <= at {
                seen.drops.resize(at + 1, 0);
            }
            if let Ok(drops) = self.driver.socket(socket).dropped_datagrams() {
                let more = drops.wrapping_sub(seen.drops[at]);
                numbers.add(Metric::SocketDrops, [], more.into());
                seen.drops[at] = drops;
            }
        }
        let kind = match self.driver.backend() {
            Backend::IoUring => BackendKind::IoUring,
            Backend::Poll => BackendKind::Poll,
        };
        numbers.set(Metric::Workers, [kind as usize], 1);
        if !self.shared.metrics.take(&mut self.recorder) {
            self.lookups.want();
        }
    }
}

impl Worker {
    /// Looks up what this worker does not count itself, if that is due.
    pub(super) fn look_up_when_due(&mut self) {
        if self.io.lookups.due.is_some_and(|at| at <= self.io.now) {
            self.look_up();
        }
    }

    /// The same at once.
    pub(crate) fn look_up(&mut self) {
        self.connections.count(&mut self.io);
        self.sessions.count(&self.io);
        self.io.look_up(self.listeners.sockets());
        let (numbers, disk) = (&self.io.numbers, &self.disk);
        numbers.set(Metric::DiskInFlight, [], disk.in_flight() as u64);
        numbers.set(Metric::DiskHung, [], disk.hung() as u64);
        self.count_memory();
    }

    /// What this worker has of the budget's addends that are by worker. What QUIC and handshakes
    /// hold, all workers know together.
    fn count_memory(&self) {
        let (numbers, pool) = (&self.io.numbers, &self.io.pool);
        let of_buffers = |buffers: usize, bytes: usize| (buffers * bytes) as u64;
        let made = self.io.send_buffers.made();
        for (addend, bytes) in [
            (Addend::Pool, of_buffers(pool.in_use(), Pool::BUFFER_BYTES)),
            (Addend::Sessions, self.sessions.held_bytes()),
            (Addend::SendBuffers, of_buffers(made, SendBuffer::BYTES)),
        ] {
            numbers.set(Metric::Memory, [addend as usize], bytes);
        }
        let of_sessions = self.io.shared.budget.sessions_bytes(self.io.shared.workers);
        let most = SEND_BUFFERS;
        for (addend, bytes) in [
            (
                Addend::Pool,
                of_buffers(pool.capacity(), Pool::BUFFER_BYTES),
            ),
            (Addend::Sessions, of_sessions),
            (Addend::SendBuffers, of_buffers(most, SendBuffer::BYTES)),
        ] {
            numbers.set(Metric::MemoryLimit, [addend as usize], bytes);
        }
    }
}
