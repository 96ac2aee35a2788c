// SPDX-License-Identifier: MPL-2.0

//! What can go wrong with signed provenance, and what to do about it.

use std::path::{Path, PathBuf};

/// The error of this crate. Its text is for the person who runs it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// There is nothing to sign with, or what there is cannot be used.
    #[error("{0}")]
    Signer(String),
    /// Nothing says what made the video.
    #[error(
        "the stream does not say what made it, so that nothing can be claimed: have soragen upstream, or set \
         the property `model` to the generator's name"
    )]
    NoOrigin,
    /// What came is no MP4 that can be signed.
    #[error("what came is no whole MP4 ({0}); link mp4mux or qtmux")]
    NotMp4(String),
    /// The manifest could not be made, signed or read.
    #[error("the provenance cannot be signed or read: {0}")]
    Manifest(#[from] c2pa::Error),
    /// A certificate could not be made.
    #[error("the certificate cannot be made: {0}")]
    Certificate(String),
}

impl Error {
    /// Puts the path in front of whatever went wrong with it.
    pub(crate) fn io(path: &Path) -> impl Fn(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.into(), source }
    }
}

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
