//! `serve --metrics`: the daemon's numbers for Prometheus, where they are asked for.
//!
//! Threads of the daemon answer, never a worker. Whoever may connect can make them do little: there
//! are a few at a time, each has a few seconds, and nothing that is asked changes anything.

mod address;
mod door;
mod exposition;
mod request;

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::engine::{self, DaemonNumbers};

pub use address::MetricsAddress;
pub use door::MetricsError;
use door::{MetricsDoor, Scrape};
use request::{Request, ScrapeAnswer};

/// Scrapes that are answered at a time; for another one the oldest that has not asked yet is given
/// up, so that nobody who says nothing keeps others out.
const SCRAPES_MAX: usize = 32;

/// How long a scrape may take to ask, and as long again to take the answer. Prometheus gives up
/// after 10 s.
const ASKS_WITHIN: Duration = Duration::from_secs(5);
const TAKES_WITHIN: Duration = Duration::from_secs(5);

/// Between two scrapes: not more than 20 are begun in a second. So whoever comes has a second and a
/// half to ask, however many others come.
const PAUSE: Duration = Duration::from_millis(50);

/// After an accept(2) that failed, for want of descriptors nearly always.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(500);

/// What answers; told to end, and waited for, when dropped.
pub struct Endpoint {
    door: Arc<MetricsDoor>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Endpoint {
    /// Listens, and answers from then on.
    ///
    /// # Errors
    /// The address cannot be had, or there is no room for a thread.
    pub fn start(at: &MetricsAddress, numbers: DaemonNumbers) -> Result<Endpoint, MetricsError> {
        let door = Arc::new(MetricsDoor::open(at)?);
        tracing::info!("metrics are at {}", door.shown());
        let stop = Arc::new(AtomicBool::new(false));
        let (entered, stopped) = (door.clone(), stop.clone());
        let thread = thread::Builder::new()
            .name("landro-metrics".to_owned())
            .spawn(move || keep(&entered, &stopped, &numbers))
            .map_err(MetricsError::Thread)?;
        Ok(Endpoint {
            door,
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.door.close();
        if let Some(thread) = self.thread.take() {
            // It has panicked, or it ends now.
            let _ = thread.join();
        }
    }
}

/// A scrape that is being answered by a thread of its own.
struct Answering {
    /// Another handle of its connection, to end it by.
    connection: Scrape,
    has_asked: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Answering {
    fn end(self) {
        self.connection.end();
        let _ = self.thread.join();
    }
}

/// Takes in who comes, until it is told to stop.
fn keep(door: &MetricsDoor, stop: &AtomicBool, numbers: &DaemonNumbers) {
    let mut all: Vec<Answering> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let accepted = door.accept();
        if stop.load(Ordering::Relaxed) {
            break;
        }
        all.retain(|answering| !answering.thread.is_finished());
        if all.len() >= SCRAPES_MAX {
            // In the order they came.
            let is_silent = |it: &Answering| !it.has_asked.load(Ordering::Relaxed);
            let given_up = all.iter().position(is_silent).unwrap_or(0);
            all.remove(given_up).end();
        }
        let answering = accepted.and_then(|connection| begin(connection, numbers.clone()));
        match answering {
            Ok(answering) => all.push(answering),
            Err(error) => {
                tracing::debug!(%error, "a scrape of the metrics was not answered");
                thread::sleep(PAUSE_AFTER_FAILURE);
            }
        }
        thread::sleep(PAUSE);
    }
    all.into_iter().for_each(Answering::end);
}

fn begin(mut connection: Scrape, numbers: DaemonNumbers) -> io::Result<Answering> {
    let again = connection.again()?;
    let has_asked = Arc::new(AtomicBool::new(false));
    let asked = has_asked.clone();
    let thread = thread::Builder::new()
        .name("landro-scrape".to_owned())
        .spawn(move || {
            if let Err(error) = answer(&mut connection, &asked, &numbers) {
                tracing::debug!(%error, "a scrape of the metrics ended early");
            }
            // The other handle would keep it open.
            connection.end();
        })?;
    Ok(Answering {
        connection: again,
        has_asked,
        thread,
    })
}

/// One request, one answer.
fn answer(
    connection: &mut Scrape,
    has_asked: &AtomicBool,
    numbers: &DaemonNumbers,
) -> io::Result<()> {
    let until = engine::now() + ASKS_WITHIN;
    let mut request = Request::default();
    let asked = loop {
        if let Some(asked) = request.is_whole() {
            break asked;
        }
        connection.read_until(left(until)?)?;
        match connection.read(request.room())? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => request.read(bytes),
        }
    };
    has_asked.store(true, Ordering::Relaxed);
    let answer = ScrapeAnswer::to(asked, || exposition::text(numbers));
    let (until, mut bytes) = (engine::now() + TAKES_WITHIN, answer.bytes());
    while !bytes.is_empty() {
        connection.write_until(left(until)?)?;
        match connection.write(bytes)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            taken => bytes = &bytes[taken..],
        }
    }
    Ok(())
}

/// The status that a scrape is answered with that begins so. None: more is waited for.
#[cfg(feature = "fuzzing")]
pub fn scrape_is_answered_with(bytes: &[u8]) -> Option<String> {
    let mut request = Request::default();
    let most = bytes.len().min(request.room().len());
    request.room()[..most].copy_from_slice(&bytes[..most]);
    request.read(most);
    let answer = ScrapeAnswer::to(request.is_whole()?, || "# EOF\n".to_owned());
    let text = String::from_utf8_lossy(answer.bytes()).into_owned();
    text.split(' ').nth(1).map(str::to_owned)
}

/// How long there is until then; never zero, which would be for ever to a socket.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(engine::now());
    match left.is_zero() {
        true => Err(io::ErrorKind::TimedOut.into()),
        false => Ok(left),
    }
}
