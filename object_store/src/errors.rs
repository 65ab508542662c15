//! Errors of landro as those of a store, with landro's own as their source.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;

use landro::{EntryError, EntryErrorCode, TransferError};
use object_store::Error;
use object_store::path::Path;

use crate::version::FileVersion;

/// What this store is called in errors.
pub(crate) const STORE: &str = "landro";

/// Why a request to a daemon failed: the source of the errors of a store that have to do with one.
///
/// ```
/// use landro_object_store::RequestError;
///
/// fn may_be_tried_again(error: &object_store::Error) -> bool {
///     let source = std::error::Error::source(error);
///     let request = source.and_then(|source| source.downcast_ref::<RequestError>());
///     request.is_some_and(RequestError::is_retryable)
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[error("{doing} {path} at {peer}: {}{}", self.why(), self.advice())]
pub struct RequestError {
    doing: &'static str,
    path: String,
    peer: String,
    source: TransferError,
    /// Of the one file that was to be put.
    entry: Option<Box<EntryError>>,
}

impl RequestError {
    pub(crate) fn new(doing: &'static str, peer: &str, source: TransferError) -> RequestError {
        RequestError {
            doing,
            path: String::new(),
            peer: peer.to_owned(),
            source,
            entry: None,
        }
    }

    pub(crate) fn with_entry(mut self, entry: Option<Box<EntryError>>) -> RequestError {
        self.entry = entry;
        self
    }

    /// Whether the same request may succeed later, without anybody having changed anything
    /// ([`TransferError::is_retryable`]). The text of the error says so, too.
    pub fn is_retryable(&self) -> bool {
        self.source.is_retryable()
    }

    /// What landro says.
    pub fn transfer_error(&self) -> &TransferError {
        &self.source
    }

    /// What became of the file itself, of a put that came so far.
    pub fn entry_error(&self) -> Option<&EntryError> {
        self.entry.as_deref()
    }

    fn why(&self) -> String {
        match &self.entry {
            Some(entry) if entry.advice.is_empty() => entry.text.clone(),
            Some(entry) => format!("{}; {}", entry.text, entry.advice),
            None => self.source.to_string(),
        }
    }

    fn advice(&self) -> &'static str {
        match self.is_retryable() {
            true => " (the same request may succeed later)",
            false => "",
        }
    }

    /// As the store's error about this object.
    pub(crate) fn about(mut self, location: &Path) -> Error {
        let path = location.to_string();
        self.path = match path.is_empty() {
            true => ".".to_owned(),
            false => path.clone(),
        };
        let code = self.entry.as_ref().map(|entry| entry.code);
        match (&self.source, code) {
            (TransferError::NotFound(_), _) => Error::NotFound {
                path,
                source: self.into(),
            },
            (TransferError::Forbidden(_), _) | (_, Some(EntryErrorCode::Permission)) => {
                Error::PermissionDenied {
                    path,
                    source: self.into(),
                }
            }
            (TransferError::NotTrusted { .. } | TransferError::Refused { .. }, _) => {
                Error::Unauthenticated {
                    path,
                    source: self.into(),
                }
            }
            _ => generic(self),
        }
    }
}

/// Why an object could not be laid out on this host, before anything was sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StagingError {
    #[error(
        "cannot make a file in memory for it: {0}; are the open files of this process used up \
         (ulimit -n)?"
    )]
    Memory(io::Error),
    #[error(
        "cannot make a file for it in {}: {source}; LandroStore::with_staging_directory chooses \
         another directory", .directory.display()
    )]
    Create {
        directory: PathBuf,
        source: io::Error,
    },
    #[error(
        "cannot write it into a file here: {0}; is the staging directory full? \
         LandroStore::with_staging_directory chooses another"
    )]
    Write(io::Error),
    #[error("it would have more bytes than a file can have")]
    TooLarge,
}

/// Why the parts of an upload are no object.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("the upload was completed or aborted before")]
    Over,
    #[error(
        "{missing} of {parts} parts were not written: the future of each has to be awaited, and \
         to succeed, before the upload is completed"
    )]
    Incomplete { missing: u64, parts: u64 },
}

/// Why what is asked for is no part of an object.
#[derive(Debug, thiserror::Error)]
#[error("the object was {} when it was first looked at, and is {} now: somebody changed it while \
         it was read; get it anew", .before.e_tag(), .now.e_tag())]
pub(crate) struct ChangedError {
    pub(crate) before: FileVersion,
    pub(crate) now: FileVersion,
}

/// A tree of more names than are kept.
#[derive(Debug, thiserror::Error)]
#[error(
    "more than {0} names wait to be listed: list prefixes below this one, or take the objects out \
     of the stream as they come"
)]
pub(crate) struct TooManyNames(pub(crate) usize);

/// Something that has to do with this object, and happened on this host.
#[derive(Debug, thiserror::Error)]
#[error("{location}: {source}")]
struct LocalError {
    location: String,
    source: Box<dyn StdError + Send + Sync>,
}

/// As [`generic`], and says which object it is about.
pub(crate) fn local(location: &Path, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
    generic(LocalError {
        location: location.to_string(),
        source: source.into(),
    })
}

pub(crate) fn generic(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
    Error::Generic {
        store: STORE,
        source: source.into(),
    }
}

/// What a daemon does not offer is not imitated: `what` says what there is in its place.
pub(crate) fn not_implemented(operation: &str, what: &str) -> Error {
    Error::NotImplemented {
        operation: format!("{operation} ({what})"),
        implementer: "LandroStore".to_owned(),
    }
}
