//! How the end of a transfer becomes an exit code and a sentence.

use crate::engine::Ended;
use crate::ids::Fingerprint;
use crate::proto::{Outcome, SessionErrorCode, Totals};

use super::Exit;
use super::escape;
use super::url::Host;

/// Whom a transfer was with, for its sentences. A local copy has neither.
#[derive(Clone, Copy, Default)]
pub struct Parties<'a> {
    pub host: Option<&'a Host>,
    pub own: Option<Fingerprint>,
    /// A rerun goes on where this ended.
    pub resumes: bool,
}

/// What the end means to the user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    pub exit: Exit,
    pub totals: Option<Totals>,
    /// For the JSON `error` event.
    pub code: &'static str,
    /// Unless everything went well, or every error was told already.
    pub message: Option<String>,
}

/// `signal`: the one that asked to stop, if one did.
pub fn judge(ended: &Ended, signal: Option<i32>, parties: Parties) -> Verdict {
    let host = parties
        .host
        .map_or_else(String::new, |host| format!("landro://{host}/"));
    let verdict = |exit, code, message: String| Verdict {
        exit,
        totals: None,
        code,
        message: Some(message),
    };
    let lost = |why: &str| {
        let why = escape::text(why);
        verdict(
            Exit::Unreachable,
            "lost",
            format!("{host}: connection lost: {why}{}", rerun(parties.resumes)),
        )
    };
    match ended {
        Ended::Outcome(Outcome::Complete(totals)) => complete(totals),
        // Whatever else the end looked like, the signal came first.
        Ended::Outcome(Outcome::Lost(totals)) if signal.is_some() => {
            interrupted(signal, Some(*totals), parties)
        }
        Ended::Lost(_) | Ended::Unreachable(_) | Ended::Failed(_) if signal.is_some() => {
            interrupted(signal, None, parties)
        }
        Ended::Outcome(Outcome::Cancelled(totals)) => interrupted(signal, Some(*totals), parties),
        Ended::Outcome(Outcome::Refused(error)) => {
            let text = escape::text(&error.text);
            let (exit, code) = match error.code {
                // Nobody else was asked.
                SessionErrorCode::Permission if parties.host.is_none() => {
                    (Exit::Error, "permission")
                }
                SessionErrorCode::Permission => (Exit::Identity, "permission"),
                SessionErrorCode::Full => (Exit::Full, "full"),
                SessionErrorCode::NotFound => (Exit::Error, "not_found"),
                SessionErrorCode::Busy => (Exit::Error, "busy"),
                SessionErrorCode::Unsupported => (Exit::Error, "unsupported"),
                SessionErrorCode::Other => (Exit::Error, "other"),
            };
            let whose = if host.is_empty() {
                host
            } else {
                format!("{host}: ")
            };
            verdict(exit, code, format!("{whose}{text}"))
        }
        Ended::Outcome(Outcome::Violation(text)) => {
            let text = escape::text(text);
            let message = format!(
                "{host}: protocol error: {text}; do both sides run the same version of landro?"
            );
            verdict(Exit::Error, "protocol", message)
        }
        Ended::Outcome(Outcome::Lost(totals)) => Verdict {
            totals: Some(*totals),
            ..lost("the transport went away")
        },
        Ended::Lost(text) => lost(text),
        Ended::Unreachable(text) => {
            let port = parties.host.map_or(0, |host| host.port);
            let text = escape::text(text);
            let message = format!(
                "{host}: unreachable: {text}; does `landro serve` run there, and may UDP port {port} pass every firewall?"
            );
            verdict(Exit::Unreachable, "unreachable", message)
        }
        Ended::IdentityUnknown(peer) => verdict(
            Exit::Identity,
            "identity",
            format!("{host}: shows {peer}, which is not trusted"),
        ),
        Ended::RefusedByPeer(text) => {
            let own = parties.own.map_or_else(String::new, |own| own.to_string());
            let text = escape::text(text);
            let message = format!(
                "{host}: refused this host's identity ({text}); over there, put this line into authorized_peers \
                 and send landro serve a SIGHUP; if it is there, the log of landro serve says what is wrong: {own}"
            );
            verdict(Exit::Identity, "identity", message)
        }
        Ended::Failed(text) => verdict(Exit::Error, "other", escape::text(text)),
    }
}

fn rerun(resumes: bool) -> &'static str {
    if resumes {
        "; run the same command again, it resumes"
    } else {
        ""
    }
}

fn interrupted(signal: Option<i32>, totals: Option<Totals>, parties: Parties) -> Verdict {
    let (exit, name) = match signal {
        Some(signal_hook::consts::SIGTERM) => (Exit::Terminated, "SIGTERM"),
        _ => (Exit::Interrupted, "SIGINT"),
    };
    let message = format!("stopped by {name}{}", rerun(parties.resumes));
    Verdict {
        exit,
        totals,
        code: "interrupted",
        message: Some(message),
    }
}

fn complete(totals: &Totals) -> Verdict {
    let anything_done = totals.files + totals.directories + totals.symlinks + totals.skipped > 0;
    let (exit, code) = match totals {
        Totals { errors: 0, .. } => {
            return Verdict {
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
    Verdict {
        exit,
        totals: Some(*totals),
        code,
        message: Some(format!("{what}; {rest}")),
    }
}

#[cfg(test)]
mod tests {
    use crate::proto::SessionError;

    use super::*;

    fn exit(ended: Ended, signal: Option<i32>) -> u8 {
        let host = Host {
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
        let cancelled = || Ended::Outcome(Outcome::Cancelled(Totals::default()));
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
        let verdict = judge(&Ended::Lost("\u{1b}[2J".into()), None, Parties::default());
        assert!(!verdict.message.unwrap().contains('\u{1b}'));
    }
}
