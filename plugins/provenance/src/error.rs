// SPDX-License-Identifier: MPL-2.0

//! Errors of signed provenance.

use std::path::{Path, PathBuf};

/// An error of this crate. Its message is for the user.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The output cannot be written to, or must not be replaced.
    #[error("{}: {reason}", path.display())]
    Output {
        /// The path that the user set.
        path: PathBuf,
        /// The reason, and what to do.
        reason: &'static str,
    },
    /// The certificate, the key or the signing command is missing or unusable.
    #[error("{0}")]
    Signer(String),
    /// No model is known for the video.
    #[error(
        "the model that generated the video is unknown: use soragen upstream, or set the property `model` to \
         the model's name"
    )]
    NoOrigin,
    /// The input is not an MP4 that can be signed.
    #[error("the input is not a complete MP4 ({0}); link mp4mux or qtmux")]
    NotMp4(String),
    /// A manifest cannot be created, signed or read.
    #[error("cannot sign or read the C2PA manifest: {0}")]
    Manifest(#[from] c2pa::Error),
    /// A certificate cannot be created.
    #[error("cannot create the certificate: {0}")]
    Certificate(String),
}

impl Error {
    /// An error about the file at `path`.
    pub(crate) fn io(path: &Path) -> impl Fn(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.into(), source }
    }
}

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
