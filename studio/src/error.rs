//! Errors of the studio.

use std::path::PathBuf;

/// An error. The message is for the person who starts the program.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Pipeline(gst::glib::Error),
    #[error("{0}")]
    GStreamer(#[from] gst::glib::BoolError),
    #[error("{0}")]
    State(#[from] gst::StateChangeError),
    #[error("cannot listen: {0}")]
    Listen(std::io::Error),
    #[error("cannot make a certificate: {0}")]
    Certificate(String),
    #[error("{}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
}

impl From<gst::glib::Error> for Error {
    fn from(error: gst::glib::Error) -> Self {
        Self::Pipeline(error)
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;
