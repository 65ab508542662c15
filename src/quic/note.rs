//! What two ends of a connection tell each other beside all streams, in DATAGRAM frames (RFC 9221):
//! sent to one address, never repeated, and worth nothing later (docs/protocol.md, 1.5).

/// Random bytes that prove who received them.
pub(super) type Secret = [u8; 8];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Note {
    /// A server's question, sent only to the address that it is about.
    WhereAreYou(Secret),
    /// A client's answer, from that address.
    Here(Secret),
    /// A server would have this lane replaced: only clients dial.
    ReplaceMe,
}

const WHERE_ARE_YOU: u8 = 0;
const HERE: u8 = 1;
const REPLACE_ME: u8 = 2;

impl Note {
    pub fn bytes(&self) -> Vec<u8> {
        let with = |kind: u8, secret: &Secret| [&[kind], secret.as_slice()].concat();
        match self {
            Note::WhereAreYou(secret) => with(WHERE_ARE_YOU, secret),
            Note::Here(secret) => with(HERE, secret),
            Note::ReplaceMe => vec![REPLACE_ME],
        }
    }

    /// None: nothing that is known here.
    pub fn parse(bytes: &[u8]) -> Option<Note> {
        let (kind, rest) = bytes.split_first()?;
        match (*kind, Secret::try_from(rest), rest.is_empty()) {
            (WHERE_ARE_YOU, Ok(secret), _) => Some(Note::WhereAreYou(secret)),
            (HERE, Ok(secret), _) => Some(Note::Here(secret)),
            (REPLACE_ME, Err(_), true) => Some(Note::ReplaceMe),
            _ => None,
        }
    }
}

/// A note as it is written again after it was read.
#[cfg(feature = "fuzzing")]
pub fn note_again(bytes: &[u8]) -> Option<Vec<u8>> {
    Note::parse(bytes).map(|note| note.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_as_written_and_nothing_else_is_one() {
        let secret = *b"8 bytes.";
        for note in [
            Note::WhereAreYou(secret),
            Note::Here(secret),
            Note::ReplaceMe,
        ] {
            let mut bytes = note.bytes();
            assert_eq!(Note::parse(&bytes), Some(note));
            bytes.push(0);
            assert_eq!(Note::parse(&bytes), None);
        }
        for bytes in [&[][..], &[0], &[1, 2], &[3], &[0, 1, 2, 3, 4, 5, 6, 7]] {
            assert_eq!(Note::parse(bytes), None, "{bytes:?}");
        }
    }
}
