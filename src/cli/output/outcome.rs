//! How the end of a session becomes an exit code and a sentence.

use crate::cli::args::url::DaemonName;
use crate::cli::escape;
use crate::cli::exit::Exit;
use crate::engine::Ended;
use crate::ids::Fingerprint;
use crate::proto::{CancelReason, Outcome, SessionError, SessionErrorCode, Totals};

/// Whom a session was with, for its sentences. A local copy has neither.
#[derive(Clone, Copy, Default)]
pub struct Parties<'a> {
    pub host: Option<&'a DaemonName>,
    pub own: Option<Fingerprint>,
    /// A rerun goes on where this ended.
    pub resumes: bool,
}

/// What the end means to the user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ending {
    pub exit: Exit,
    pub totals: Option<Totals>,
    /// For the JSON `error` event.
    pub code: &'static str,
    /// Unless everything went well, or every error was told already.
    pub message: Option<String>,
}

impl Ending {
    fn without_totals(exit: Exit, code: &'static str, message: String) -> Ending {
        Ending {
            exit,
            totals: None,
            code,
            message: Some(message),
        }
    }

    fn with(self, totals: Totals) -> Ending {
        Ending {
            totals: Some(totals),
            ..self
        }
    }
}

/// `signal`: the one that asked to stop, if one did.
pub fn judge(ended: &Ended, signal: Option<i32>, parties: Parties) -> Ending {
    match ended {
        Ended::Outcome(outcome) => parties.of_outcome(outcome, signal),
        // Whatever else the end looked like, the signal came first.
        Ended::Lost(_) | Ended::Unreachable(_) | Ended::Failed(_) if signal.is_some() => {
            parties.interrupted(signal)
        }
        Ended::Lost(text) => parties.lost(text),
        Ended::Unreachable(text) => parties.unreachable(text),
        Ended::IdentityUnknown(peer) => {
            let message = format!("{}: shows {peer}, which is not trusted", parties.url());
            Ending::without_totals(Exit::Identity, "identity", message)
        }
        Ended::RefusedByPeer(text) => parties.refused_by_peer(text),
        Ended::Failed(text) => Ending::without_totals(Exit::Error, "other", escape::text(text)),
    }
}

impl Parties<'_> {
    fn url(self) -> String {
        self.host
            .map_or_else(String::new, |host| format!("landro://{host}/"))
    }

    fn rerun(self) -> &'static str {
        match self.resumes {
            true => "; run the same command again, it resumes",
            false => "",
        }
    }

    fn of_outcome(self, outcome: &Outcome, signal: Option<i32>) -> Ending {
        match outcome {
            Outcome::Complete(totals) => complete(totals),
            Outcome::Lost(totals) | Outcome::Stopped { totals, .. } if signal.is_some() => {
                self.interrupted(signal).with(*totals)
            }
            Outcome::Cancelled { totals, .. } => self.interrupted(signal).with(*totals),
            Outcome::Refused(error) => self.refused(error),
            Outcome::CalledOff(error) => called_off(error),
            Outcome::Violation(text) => {
                let (url, text) = (self.url(), escape::text(text));
                let message = format!(
                    "{url}: protocol error: {text}; do both sides run the same version of landro?"
                );
                Ending::without_totals(Exit::Error, "protocol", message)
            }
            Outcome::Stopped { reason, totals } => self.stopped(*reason).with(*totals),
            Outcome::Lost(totals) => self.lost("the transport went away").with(*totals),
        }
    }

    fn refused(self, error: &SessionError) -> Ending {
        let (exit, code) = refusal(error.code);
        let message = format!("{}: {}", self.url(), escape::text(&error.text));
        Ending::without_totals(exit, code, message)
    }

    fn lost(self, why: &str) -> Ending {
        let (url, why, rerun) = (self.url(), escape::text(why), self.rerun());
        let message = format!("{url}: connection lost: {why}{rerun}");
        Ending::without_totals(Exit::Unreachable, "lost", message)
    }

    fn stopped(self, reason: CancelReason) -> Ending {
        let (url, rerun) = (self.url(), self.rerun());
        let why = match reason {
            CancelReason::User => "the daemon stopped the transfer",
            CancelReason::Ending => "the daemon over there is being stopped",
            CancelReason::Stalled => "the daemon got nothing done for too long and gave up",
        };
        let message = format!("{url}: {why}{rerun}");
        Ending::without_totals(Exit::Unreachable, "lost", message)
    }

    fn unreachable(self, why: &str) -> Ending {
        let (url, why) = (self.url(), escape::text(why));
        let port = self.host.map_or(0, |host| host.port);
        let message = format!(
            "{url}: unreachable: {why}; does `landro serve` run there, and may UDP port {port} \
             pass every firewall?"
        );
        Ending::without_totals(Exit::Unreachable, "unreachable", message)
    }

    fn refused_by_peer(self, why: &str) -> Ending {
        let (url, why) = (self.url(), escape::text(why));
        let own = self.own.map_or_else(String::new, |own| own.to_string());
        let message = format!(
            "{url}: refused this host's identity ({why}); over there, put this line into \
             authorized_peers and send landro serve a SIGHUP; if it is there, the log of landro \
             serve says what is wrong: {own}"
        );
        Ending::without_totals(Exit::Identity, "identity", message)
    }

    fn interrupted(self, signal: Option<i32>) -> Ending {
        let (exit, name) = match signal {
            Some(signal_hook::consts::SIGTERM) => (Exit::Terminated, "SIGTERM"),
            _ => (Exit::Interrupted, "SIGINT"),
        };
        let message = format!("stopped by {name}{}", self.rerun());
        Ending::without_totals(exit, "interrupted", message)
    }
}

/// Nobody else was asked, so that nobody refused this host a right.
fn called_off(error: &SessionError) -> Ending {
    let exit = match refusal(error.code) {
        (Exit::Identity, _) => Exit::Error,
        (exit, _) => exit,
    };
    Ending::without_totals(exit, refusal(error.code).1, escape::text(&error.text))
}

fn refusal(code: SessionErrorCode) -> (Exit, &'static str) {
    match code {
        SessionErrorCode::Permission => (Exit::Identity, "permission"),
        SessionErrorCode::Full => (Exit::Full, "full"),
        SessionErrorCode::NotFound => (Exit::Error, "not_found"),
        SessionErrorCode::Busy => (Exit::Error, "busy"),
        SessionErrorCode::Unsupported => (Exit::Error, "unsupported"),
        SessionErrorCode::Other => (Exit::Error, "other"),
    }
}

fn complete(totals: &Totals) -> Ending {
    let anything_done = totals.files + totals.directories + totals.symlinks + totals.skipped > 0;
    let (exit, code) = match totals {
        Totals { errors: 0, .. } => {
            return Ending {
                exit: Exit::Done,
                totals: Some(*totals),
                code: "none",
                message: None,
            };
        }
        Totals {
            integrity: true, ..
        } => (Exit::Integrity, "integrity"),
        Totals { full: true, .. } => (Exit::Full, "full"),
        _ if anything_done => (Exit::Partial, "partial"),
        _ => (Exit::Error, "nothing_done"),
    };
    let what = match totals.errors {
        1 => "1 entry failed".to_string(),
        errors => format!("{errors} entries failed"),
    };
    let rest = if anything_done {
        "the rest is complete"
    } else {
        "nothing was copied"
    };
    Ending {
        exit,
        totals: Some(*totals),
        code,
        message: Some(format!("{what}; {rest}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(ended: Ended, signal: Option<i32>) -> u8 {
        let host = DaemonName {
            name: "h".into(),
            port: 4433,
        };
        judge(
            &ended,
            signal,
            Parties {
                host: Some(&host),
                own: Some(Fingerprint([0; 32])),
                resumes: true,
            },
        )
        .exit
        .code()
    }

    fn totals(change: impl FnOnce(&mut Totals)) -> Ended {
        let mut totals = Totals::default();
        change(&mut totals);
        Ended::Outcome(Outcome::Complete(totals))
    }

    fn refused(code: SessionErrorCode) -> Ended {
        Ended::Outcome(Outcome::Refused(SessionError {
            code,
            text: "t".into(),
        }))
    }

    #[test]
    fn complete_transfers() {
        assert_eq!(exit(totals(|t| t.files = 1), None), 0);
        assert_eq!(exit(totals(|t| (t.files, t.errors) = (1, 1)), None), 3);
        assert_eq!(exit(totals(|t| (t.skipped, t.errors) = (1, 1)), None), 3);
        assert_eq!(exit(totals(|t| t.errors = 1), None), 1);
        assert_eq!(exit(totals(|t| (t.errors, t.full) = (2, true)), None), 6);
        assert_eq!(
            exit(
                totals(|t| (t.errors, t.integrity, t.full) = (3, true, true)),
                None
            ),
            7
        );
    }

    #[test]
    fn refusals_and_losses() {
        assert_eq!(exit(refused(SessionErrorCode::Permission), None), 4);
        assert_eq!(exit(refused(SessionErrorCode::Full), None), 6);
        let own = SessionError {
            code: SessionErrorCode::Permission,
            text: "t".into(),
        };
        let own = Ended::Outcome(Outcome::CalledOff(own));
        assert_eq!(exit(own, None), 1, "no peer refused anything");
        assert_eq!(exit(refused(SessionErrorCode::NotFound), None), 1);
        assert_eq!(exit(Ended::IdentityUnknown(Fingerprint([0; 32])), None), 4);
        assert_eq!(exit(Ended::RefusedByPeer("t".into()), None), 4);
        assert_eq!(exit(Ended::Unreachable("t".into()), None), 5);
        assert_eq!(exit(Ended::Lost("t".into()), None), 5);
        assert_eq!(
            exit(Ended::Outcome(Outcome::Lost(Totals::default())), None),
            5
        );
        assert_eq!(
            exit(Ended::Outcome(Outcome::Violation("t".into())), None),
            1
        );
        assert_eq!(exit(Ended::Failed("t".into()), None), 1);
    }

    #[test]
    fn signals() {
        let cancelled = || {
            Ended::Outcome(Outcome::Cancelled {
                reason: CancelReason::User,
                totals: Totals::default(),
            })
        };
        assert_eq!(exit(cancelled(), Some(signal_hook::consts::SIGINT)), 130);
        assert_eq!(exit(cancelled(), Some(signal_hook::consts::SIGTERM)), 143);
        assert_eq!(
            exit(
                Ended::Unreachable("t".into()),
                Some(signal_hook::consts::SIGTERM)
            ),
            143
        );
        assert_eq!(
            exit(totals(|t| t.files = 1), Some(signal_hook::consts::SIGINT)),
            0,
            "it was done already"
        );
    }

    #[test]
    fn the_peers_words_are_escaped() {
        let ending = judge(&Ended::Lost("\u{1b}[2J".into()), None, Parties::default());
        assert!(!ending.message.unwrap().contains('\u{1b}'));
    }
}
