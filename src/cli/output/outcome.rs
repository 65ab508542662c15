//! How the end of a session becomes an exit code and a sentence.

use super::amount;
use crate::cli::args::url::DaemonName;
use crate::cli::escape;
use crate::cli::exit::Exit;
use crate::cli::say::without_numbers;
use crate::config::{LaneKind, LaneKinds};
use crate::engine::Ended;
use crate::ids::Fingerprint;
use crate::proto::{CancelReason, Outcome, SessionError, SessionErrorCode, Totals};

/// Where the unit `landro.service` has a daemon look; a stranger is not told where it
/// really does.
const AUTHORIZED_PEERS: &str = "/var/lib/landro/config/authorized_peers";

/// How the reason begins if the port was refused.
const NOBODY: &str = "because nobody listens";

/// Whom a session was with and what for, for its sentences.
#[derive(Clone, Default)]
pub struct Parties<'a> {
    /// None: a copy within this host.
    pub host: Option<&'a DaemonName>,
    pub own: Option<Fingerprint>,
    /// The path that the daemon was asked for, or where things were to go here, as typed.
    pub asked: String,
    /// The command that goes on where this ended, if one does.
    pub rerun: Option<String>,
    /// That command has no use for what was moved: it came from, or went to, what is no file.
    pub begins_anew: bool,
    /// Some of it did, so that no other session was begun.
    pub flows_once: bool,
    /// What had come of it when it ended, where the session cannot say.
    pub done: Totals,
    /// System calls and errno are wanted.
    pub verbose: bool,
}

/// What the end means to the user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ending {
    pub exit: Exit,
    pub totals: Option<Totals>,
    /// For the JSON `error` event.
    pub code: &'static str,
    pub errno: Option<i32>,
    /// Unless everything went well, or every error was told already.
    pub message: Option<String>,
}

impl Ending {
    fn without_totals(exit: Exit, code: &'static str, message: String) -> Ending {
        Ending {
            exit,
            totals: None,
            code,
            errno: None,
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
pub fn judge(ended: &Ended, signal: Option<i32>, parties: &Parties) -> Ending {
    match ended {
        Ended::Outcome(outcome) => parties.of_outcome(outcome, signal),
        // Whatever else the end looked like, the signal came first.
        Ended::Lost(_) | Ended::Unreachable { .. } | Ended::Failed(_) if signal.is_some() => {
            parties.interrupted(signal, parties.done)
        }
        Ended::Lost(text) => parties.lost(text, parties.done),
        Ended::Unreachable { kinds, why } => parties.unreachable(*kinds, why),
        Ended::IdentityUnknown(peer) => {
            let message = format!("{} shows {peer}, which is not trusted", parties.url());
            Ending::without_totals(Exit::Identity, "identity", message)
        }
        Ended::RefusedByPeer(_) => parties.refused_by_peer(),
        Ended::Failed(text) => {
            let text = &without_numbers(text);
            let message = match parties.host {
                Some(_) => format!("{}: {}", parties.url(), escape::text(text)),
                None => escape::text(text),
            };
            Ending::without_totals(Exit::Error, "other", message)
        }
    }
}

impl Parties<'_> {
    fn url(&self) -> String {
        self.host.map_or_else(String::new, |host| host.url(b""))
    }

    /// What was done, and how to go on.
    fn so_far(&self, done: Totals) -> String {
        let mut text = String::new();
        if done.files + done.skipped > 0 || done.sent_bytes > 0 {
            let files = amount::count(done.files + done.skipped, "file", "files");
            let moved = amount::bytes(done.sent_bytes);
            text = format!("; {files} done, {moved} moved");
        }
        if self.flows_once {
            text.push_str(
                "; it is not taken up again by itself, for what came from a pipe or a device, or \
                 went to one, cannot be had twice",
            );
        }
        if let Some(command) = &self.rerun {
            // A copy within one host begins a file anew that was cut short.
            text.push_str(match self.host {
                _ if self.begins_anew => "; the same command again begins anew: ",
                Some(_) => "; the same command again resumes it: ",
                None => "; the same command again copies what is missing: ",
            });
            text.push_str(command);
        }
        text
    }

    /// Behind a question: what earlier sessions did, and how to go on.
    fn gone_on_with(&self) -> String {
        let so_far = match self.done == Totals::default() {
            true => String::new(),
            false => self.so_far(self.done),
        };
        so_far.replacen("; ", " ", 1)
    }

    fn of_outcome(&self, outcome: &Outcome, signal: Option<i32>) -> Ending {
        match outcome {
            Outcome::Complete(totals) => complete(totals),
            Outcome::Lost(totals) | Outcome::Stopped { totals, .. } if signal.is_some() => {
                self.interrupted(signal, *totals)
            }
            Outcome::Cancelled { totals, .. } => self.interrupted(signal, *totals),
            Outcome::Refused(error) => self.refused(error),
            Outcome::CalledOff(error) => self.called_off(error),
            Outcome::Violation(text) => {
                let (url, text) = (self.url(), escape::text(text));
                let message = format!(
                    "{url}: protocol error: {text}; do both sides run the same version of landro?"
                );
                Ending::without_totals(Exit::Error, "protocol", message)
            }
            Outcome::Stopped { reason, totals } => self.stopped(*reason, *totals),
            Outcome::Lost(totals) => self.lost("the daemon ended the session", *totals),
            Outcome::Stalled { totals, .. } if signal.is_some() => {
                self.interrupted(signal, *totals)
            }
            Outcome::Stalled { totals, text } => self.stalled(text, *totals),
        }
    }

    /// Nothing was got on with, here or over there.
    fn stalled(&self, text: &str, done: Totals) -> Ending {
        let (url, text, so_far) = (self.url(), escape::text(text), self.so_far(done));
        let of = if url.is_empty() {
            url
        } else {
            format!("{url}: ")
        };
        let message = format!("{of}{text}, so this was given up (--timeout){so_far}");
        Ending::without_totals(Exit::Unreachable, "stalled", message).with(done)
    }

    fn refused(&self, error: &SessionError) -> Ending {
        if error.code == SessionErrorCode::Stalled {
            return self.stalled(&error.text, self.done);
        }
        let (exit, code) = refusal(error.code);
        let of = match error.is_about_path() {
            true => self.asked.clone(),
            false => self.url(),
        };
        self.about(of, error, "", (exit, code))
    }

    /// Nobody else was asked, so that nobody refused this host a right.
    fn called_off(&self, error: &SessionError) -> Ending {
        let exit = match refusal(error.code) {
            (Exit::Identity, _) => Exit::Error,
            (exit, _) => exit,
        };
        let side = match self.host {
            Some(_) if error.is_about_path() => "here",
            Some(_) | None => "",
        };
        let of = match error.is_about_path() {
            true => self.asked.clone(),
            false => self.url(),
        };
        self.about(of, error, side, (exit, refusal(error.code).1))
    }

    /// `of`: the path or host that it is about; none where it is a word about the command.
    fn about(
        &self,
        of: String,
        error: &SessionError,
        side: &str,
        (exit, code): (Exit, &'static str),
    ) -> Ending {
        let detail = error.detail().filter(|_| self.verbose).unwrap_or_default();
        let aside = match (side, detail.as_str()) {
            ("", "") => String::new(),
            (one, "") | ("", one) => format!(" ({one})"),
            (side, detail) => format!(" ({side}; {detail})"),
        };
        let text = escape::text(&error.sentence(&aside));
        let message = match of.as_str() {
            "" => text,
            of => format!("{of}: {text}"),
        };
        Ending {
            errno: (error.errno != 0).then_some(error.errno),
            ..Ending::without_totals(exit, code, message)
        }
    }

    fn lost(&self, why: &str, done: Totals) -> Ending {
        let (url, why, so_far) = (self.url(), escape::text(why), self.so_far(done));
        let message = format!("{url}: connection lost: {why}{so_far}");
        Ending::without_totals(Exit::Unreachable, "lost", message).with(done)
    }

    fn stopped(&self, reason: CancelReason, done: Totals) -> Ending {
        let (url, so_far) = (self.url(), self.so_far(done));
        let why = match reason {
            CancelReason::User => "the daemon stopped the transfer",
            CancelReason::Ending => "the daemon is stopping",
            CancelReason::Stalled => "the daemon got nothing done for too long and gave up",
        };
        let message = format!("{url}: {why}{so_far}");
        Ending::without_totals(Exit::Unreachable, "lost", message).with(done)
    }

    fn unreachable(&self, kinds: LaneKinds, why: &str) -> Ending {
        let protocol = match kinds {
            LaneKinds::Only(LaneKind::Tls | LaneKind::Clear) => "TCP",
            LaneKinds::Only(LaneKind::Quic) | LaneKinds::Both => "UDP",
        };
        let (name, port) = self
            .host
            .map_or(("", 0), |host| (host.name.as_str(), host.port));
        let why = escape::text(&without_numbers(why));
        // What is refused was not dropped.
        let what_else = match why.starts_with(NOBODY) {
            true => "and on this port, or does a firewall refuse it?".to_owned(),
            false => format!("does a firewall drop {protocol}?"),
        };
        let message = format!(
            "no answer from {name}, {protocol} port {port}, {why}: is landro serve running there, \
             {what_else}{}",
            self.gone_on_with()
        );
        Ending::without_totals(Exit::Unreachable, "unreachable", message)
    }

    /// Why a daemon does not know somebody it does not tell.
    fn refused_by_peer(&self) -> Ending {
        let (url, own) = (self.url(), self.own);
        let own = own.map_or_else(String::new, |own| own.to_string());
        let message = format!(
            "{url} does not know this host. Over there: echo '{own}' >> \
             {AUTHORIZED_PEERS} && systemctl reload landro (where it is a service; else in \
             ~/.config/landro of who runs it, and SIGHUP). If the line is there, the log of landro \
             serve says what is wrong with it"
        );
        Ending::without_totals(Exit::Identity, "identity", message)
    }

    fn interrupted(&self, signal: Option<i32>, done: Totals) -> Ending {
        let (exit, name) = match signal {
            Some(signal_hook::consts::SIGTERM) => (Exit::Terminated, "SIGTERM"),
            _ => (Exit::Interrupted, "SIGINT"),
        };
        let message = format!("stopped by {name}{}", self.so_far(done));
        Ending::without_totals(exit, "interrupted", message).with(done)
    }
}

fn refusal(code: SessionErrorCode) -> (Exit, &'static str) {
    match code {
        SessionErrorCode::Permission => (Exit::Identity, "permission"),
        SessionErrorCode::Full => (Exit::Full, "full"),
        SessionErrorCode::Stalled => (Exit::Unreachable, "stalled"),
        SessionErrorCode::Integrity => (Exit::Integrity, "integrity"),
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
                errno: None,
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
    let what = amount::count(totals.errors, "entry failed", "entries failed");
    let rest = if anything_done {
        "the rest is complete"
    } else {
        "nothing was copied"
    };
    Ending {
        exit,
        totals: Some(*totals),
        code,
        errno: None,
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
            &Parties {
                host: Some(&host),
                own: Some(Fingerprint([0; 32])),
                rerun: Some("landro cp a landro://h/".to_owned()),
                ..Parties::default()
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
        Ended::Outcome(Outcome::Refused(SessionError::told(code, "t")))
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

    fn unreachable() -> Ended {
        Ended::Unreachable {
            kinds: LaneKinds::Both,
            why: "t".into(),
        }
    }

    #[test]
    fn refusals_and_losses() {
        assert_eq!(exit(refused(SessionErrorCode::Permission), None), 4);
        assert_eq!(exit(refused(SessionErrorCode::Full), None), 6);
        let own = SessionError::told(SessionErrorCode::Permission, "t");
        let own = Ended::Outcome(Outcome::CalledOff(own));
        assert_eq!(exit(own, None), 1, "no peer refused anything");
        assert_eq!(exit(refused(SessionErrorCode::NotFound), None), 1);
        assert_eq!(exit(Ended::IdentityUnknown(Fingerprint([0; 32])), None), 4);
        assert_eq!(exit(Ended::RefusedByPeer("t".into()), None), 4);
        assert_eq!(exit(unreachable(), None), 5);
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
        assert_eq!(exit(unreachable(), Some(signal_hook::consts::SIGTERM)), 143);
        assert_eq!(
            exit(totals(|t| t.files = 1), Some(signal_hook::consts::SIGINT)),
            0,
            "it was done already"
        );
    }

    #[test]
    fn the_peers_words_are_escaped() {
        let ending = judge(&Ended::Lost("\u{1b}[2J".into()), None, &Parties::default());
        assert!(!ending.message.unwrap().contains('\u{1b}'));
    }
}
