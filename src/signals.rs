//! SIGINT, SIGTERM and SIGHUP as flags: the first asks to stop, the second quits at once.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// What SIGHUP does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hangup {
    /// Ends the process, as by default: a client whose terminal is gone.
    Default,
    /// Is reported by [`Signals::take_hangup`].
    Catch,
}

/// The process's signals, caught from here on.
pub struct Signals {
    quit_at_once: Arc<AtomicBool>,
    /// Number of the signal that asked to stop; 0: none yet.
    asked: Arc<AtomicUsize>,
    hangup: Arc<AtomicBool>,
    /// A byte per signal, written by the handlers.
    wakes: UnixStream,
}

impl Signals {
    /// # Errors
    /// No descriptors left, or the handlers cannot be installed.
    pub fn catch(on_hangup: Hangup) -> io::Result<Signals> {
        let (wakes, waker) = UnixStream::pair()?;
        let signals = Signals {
            quit_at_once: Arc::default(),
            asked: Arc::default(),
            hangup: Arc::default(),
            wakes,
        };
        for signal in [SIGINT, SIGTERM] {
            // The order of registration is the order of running: the flag that makes the next
            // signal quit is raised after this one looked at it.
            flag::register_conditional_shutdown(
                signal,
                128 + signal,
                Arc::clone(&signals.quit_at_once),
            )?;
            flag::register(signal, Arc::clone(&signals.quit_at_once))?;
            flag::register_usize(signal, Arc::clone(&signals.asked), signal as usize)?;
            low_level::pipe::register(signal, waker.try_clone()?)?;
        }
        if on_hangup == Hangup::Catch {
            flag::register(SIGHUP, Arc::clone(&signals.hangup))?;
            low_level::pipe::register(SIGHUP, waker)?;
        }
        Ok(signals)
    }

    /// The signal that asked to stop, if one did.
    pub fn asked(&self) -> Option<i32> {
        match self.asked.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(signal as i32),
        }
    }

    /// Sleeps until a signal comes or `at_most` (not zero) passed; the signal that asked to stop,
    /// if one did.
    pub fn wait(&self, at_most: Duration) -> Option<i32> {
        if self.asked().is_none() {
            // Errors (EINTR, EAGAIN when the time is up) are no different from a byte: the flags
            // say what happened.
            let _ = self
                .wakes
                .set_read_timeout(Some(at_most))
                .and_then(|()| (&self.wakes).read(&mut [0; 64]));
        }
        self.asked()
    }

    /// Whether SIGHUP came since the last call.
    pub fn take_hangup(&self) -> bool {
        self.hangup.swap(false, Ordering::SeqCst)
    }

    /// While a person is asked something there is nothing to end in order: the first signal quits.
    pub fn quit_at_once(&self, yes: bool) {
        self.quit_at_once.store(yes, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test for all of it: handlers are of the whole process.
    #[test]
    fn flags_and_wakes() {
        let signals = Signals::catch(Hangup::Catch).unwrap();
        let long = Duration::from_secs(3600);
        assert_eq!((signals.asked(), signals.take_hangup()), (None, false));
        low_level::raise(SIGHUP).unwrap();
        assert_eq!(signals.wait(long), None);
        assert_eq!(
            signals.wait(Duration::from_millis(1)),
            None,
            "the time is up"
        );
        assert!(signals.take_hangup() && !signals.take_hangup());
        low_level::raise(SIGTERM).unwrap();
        assert_eq!(signals.wait(long), Some(SIGTERM));
        assert_eq!(
            signals.wait(long),
            Some(SIGTERM),
            "once asked, it does not sleep"
        );
    }
}
