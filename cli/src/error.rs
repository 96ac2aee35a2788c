//! Errors of the command.

use std::path::PathBuf;

/// An error of the command. Its text is printed to stderr.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("interrupted")]
    Interrupted,
    #[error("{0}")]
    Usage(String),
    #[error("cannot install a signal handler: {0}")]
    Signal(#[from] ctrlc::Error),
    #[error("{}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    #[error("cannot encode the video: {0}")]
    Encode(String),
    #[error(transparent)]
    Engine(soragen::Error),
    #[error(transparent)]
    Provenance(#[from] gstsoraprovenance::Error),
}

impl From<soragen::Error> for Error {
    fn from(error: soragen::Error) -> Self {
        match error {
            soragen::Error::Cancelled => Self::Interrupted,
            error => Self::Engine(error),
        }
    }
}

impl Error {
    /// An error about the file at `path`.
    pub fn file(path: impl Into<PathBuf>, reason: impl std::fmt::Display) -> Self {
        Self::File { path: path.into(), reason: reason.to_string() }
    }
}

pub type Result<T> = std::result::Result<T, Error>;
