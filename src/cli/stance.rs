//! Whom a client trusts in the handshake, and the question at a terminal whether to trust a daemon
//! never met.

use std::io::{IsTerminal, Write};

use super::trust::{Known, KnownHosts};
use crate::cli::args::TrustArgs;
use crate::cli::args::url::DaemonName;
use crate::cli::escape;
use crate::cli::exit::CliError;
use crate::cli::say::in_locale;
use crate::ids::Fingerprint;
use crate::signals::Signals;

/// Which fingerprints the daemon may show in the handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stance {
    Only(Vec<Fingerprint>),
    /// `--accept-new` and never met: whoever it is, it is remembered.
    AnyAndRemember,
    /// Never met, nothing said: look at the fingerprint, send nothing, ask.
    LookFirst,
}

impl Stance {
    pub fn trusts(&self, shown: &Fingerprint) -> bool {
        match self {
            Stance::Only(expected) => expected.contains(shown),
            Stance::AnyAndRemember => true,
            Stance::LookFirst => false,
        }
    }
}

/// Whom to trust before anything is known of who answers.
pub fn before(
    host: &DaemonName,
    trust: &TrustArgs,
    known: &KnownHosts,
) -> Result<Stance, CliError> {
    match (known.find(host), trust.peer) {
        (Known::As { fingerprints, line }, Some(peer)) if !fingerprints.contains(&peer) => {
            Err(CliError::Identity(format!(
                "{}: --peer says {peer}, but {} line {line} says {}. Nothing was sent. If its \
                 identity changed and you know why, remove that line",
                host.url(b""),
                known.path().display(),
                fingerprints[0],
            )))
        }
        (_, Some(peer)) => Ok(Stance::Only(vec![peer])),
        (Known::As { fingerprints, .. }, None) => Ok(Stance::Only(fingerprints)),
        (Known::Never, None) if trust.accept_new => Ok(Stance::AnyAndRemember),
        (Known::Never, None) => Ok(Stance::LookFirst),
    }
}

/// The daemon proved to have a key, but not the one expected.
pub fn refuse(
    host: &DaemonName,
    trust: &TrustArgs,
    known: &KnownHosts,
    shown: Fingerprint,
) -> CliError {
    CliError::Identity(match (known.find(host), trust.peer) {
        (Known::As { fingerprints, line }, None) => format!(
            "THE IDENTITY OF {} HAS CHANGED!\n\
             landro: It was {}\n\
             landro: ({} line {line}); now it is {shown}.\n\
             landro: Either someone else answers in its place, or it was set up anew. \
             Nothing was sent.\n\
             landro: If you know why it changed, remove that line and try again.",
            host.url(b""),
            fingerprints[0],
            known.path().display(),
        ),
        _ => {
            let url = host.url(b"");
            format!("{url} shows {shown}, not what --peer demands. Nothing was sent")
        }
    })
}

/// An unknown daemon: a person at a terminal decides, and elsewhere nobody can.
pub fn ask(
    host: &DaemonName,
    shown: Fingerprint,
    signals: &Signals,
    known: &mut KnownHosts,
) -> Result<Stance, CliError> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        let url = host.url(b"");
        return Err(CliError::Identity(format!(
            "{url} was never met before, and nobody is here to be asked; it shows {shown}. \
             Nothing was sent. Compare that with what landro serve printed over there (landro id \
             --of DIR tells it, too), then give --peer {shown} (for one run) or --accept-new \
             (remembers it)"
        )));
    }
    signals.quit_at_once(true);
    let answer = question(host, shown);
    signals.quit_at_once(false);
    match answer {
        TrustAnswer::Yes => {
            known.add(host, shown)?;
            Ok(Stance::Only(vec![shown]))
        }
        TrustAnswer::No => Err(CliError::Identity(format!(
            "{} is not trusted. Nothing was sent",
            host.url(b"")
        ))),
    }
}

#[derive(PartialEq, Eq, Debug)]
enum TrustAnswer {
    Yes,
    No,
}

fn question(host: &DaemonName, shown: Fingerprint) -> TrustAnswer {
    let mut stderr = std::io::stderr();
    let text = format!(
        "{} was never met before. It shows the fingerprint\n    {shown}\n\
         which should be what landro serve printed over there (landro id --of DIR tells it,\n\
         too).\n",
        host.url(b"")
    );
    let mut prompt = format!("{text}Trust it from now on? (yes, no, or the fingerprint) ");
    loop {
        // A prompt that cannot be written will not be answered either.
        let _ = write!(stderr, "{}", in_locale(&prompt)).and_then(|()| stderr.flush());
        let mut answer = String::new();
        match std::io::stdin().read_line(&mut answer) {
            Ok(0) | Err(_) => return TrustAnswer::No,
            Ok(_) => {}
        }
        let typed = answer.trim();
        match TrustAnswer::of(typed, shown) {
            Some(answer) => return answer,
            None => {
                let typed = escape::text(typed);
                prompt = format!("{typed:?} is neither yes nor no nor a fingerprint: ");
            }
        }
    }
}

impl TrustAnswer {
    /// None: neither. In any case of letters, and as short as people are used to.
    fn of(typed: &str, shown: Fingerprint) -> Option<TrustAnswer> {
        if let Ok(fingerprint) = typed.parse::<Fingerprint>() {
            return Some(match fingerprint == shown {
                true => TrustAnswer::Yes,
                false => TrustAnswer::No,
            });
        }
        match typed.to_ascii_lowercase().as_str() {
            "y" | "yes" => Some(TrustAnswer::Yes),
            "n" | "no" => Some(TrustAnswer::No),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(byte: u8) -> Fingerprint {
        Fingerprint([byte; 32])
    }

    fn stance_for(
        known: Option<u8>,
        peer_option: Option<u8>,
        accept_new: bool,
    ) -> Result<Stance, CliError> {
        let root = tempfile::tempdir().unwrap();
        let host = DaemonName {
            name: "h".into(),
            port: 1,
        };
        let mut hosts = KnownHosts::load(root.path()).unwrap();
        if let Some(byte) = known {
            hosts.add(&host, peer(byte)).unwrap();
        }
        let trust = TrustArgs {
            peer: peer_option.map(peer),
            accept_new,
        };
        before(&host, &trust, &hosts)
    }

    #[test]
    fn a_known_host_must_show_what_is_known() {
        assert_eq!(
            stance_for(Some(1), None, false).unwrap(),
            Stance::Only(vec![peer(1)])
        );
        assert_eq!(
            stance_for(Some(1), None, true).unwrap(),
            Stance::Only(vec![peer(1)])
        );
        assert_eq!(
            stance_for(Some(1), Some(1), false).unwrap(),
            Stance::Only(vec![peer(1)])
        );
        assert!(matches!(
            stance_for(Some(1), Some(2), true),
            Err(CliError::Identity(_))
        ));
    }

    #[test]
    fn answers_as_people_give_them() {
        let shown = peer(1);
        for (typed, answer) in [
            ("y", Some(TrustAnswer::Yes)),
            ("Yes", Some(TrustAnswer::Yes)),
            ("YES", Some(TrustAnswer::Yes)),
            ("n", Some(TrustAnswer::No)),
            ("No", Some(TrustAnswer::No)),
            ("", None),
            ("yess", None),
            ("yes please", None),
        ] {
            assert_eq!(TrustAnswer::of(typed, shown), answer, "{typed}");
        }
        let of = |byte| TrustAnswer::of(&peer(byte).to_string(), shown);
        assert_eq!(
            (of(1), of(2)),
            (Some(TrustAnswer::Yes), Some(TrustAnswer::No))
        );
    }

    #[test]
    fn an_unknown_host() {
        assert_eq!(stance_for(None, None, false).unwrap(), Stance::LookFirst);
        assert_eq!(
            stance_for(None, None, true).unwrap(),
            Stance::AnyAndRemember
        );
        assert_eq!(
            stance_for(None, Some(2), true).unwrap(),
            Stance::Only(vec![peer(2)])
        );
    }
}
