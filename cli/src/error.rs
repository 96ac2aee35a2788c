//! What can go wrong in the command.

use std::path::PathBuf;

/// The command's error; its text goes to stderr as it is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("interrupted")]
    Interrupted,
    #[error("{0}")]
    Usage(String),
    #[error("cannot listen for an interrupt: {0}")]
    Signal(#[from] ctrlc::Error),
    #[error("{}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    #[error("the video cannot be encoded: {0}")]
    Encode(String),
    #[error(transparent)]
    Engine(#[from] soragen::Error),
    #[error(transparent)]
    Provenance(#[from] gstsoraprovenance::Error),
}

impl Error {
    /// Puts the path in front of whatever went wrong with it.
    pub fn file(path: impl Into<PathBuf>, reason: impl std::fmt::Display) -> Self {
        Self::File { path: path.into(), reason: reason.to_string() }
    }
}

pub type Result<T> = std::result::Result<T, Error>;
