// SPDX-License-Identifier: MPL-2.0

//! From the engine's errors to GStreamer's.

use gst::glib;
use soragen::Error;

/// Domain and code of an error.
pub enum Kind {
    Library(gst::LibraryError),
    Resource(gst::ResourceError),
    Stream(gst::StreamError),
}

/// What kind of error it is. Its text says what to do.
pub fn kind(error: &Error) -> Kind {
    match error {
        Error::NotFound { .. } => Kind::Resource(gst::ResourceError::NotFound),
        Error::Invalid { .. } | Error::Download { .. } => Kind::Resource(gst::ResourceError::OpenRead),
        Error::Io { .. } => Kind::Resource(gst::ResourceError::Read),
        Error::Device(_) => Kind::Resource(gst::ResourceError::Settings),
        Error::Memory(_) => Kind::Resource(gst::ResourceError::NoSpaceLeft),
        Error::Refused { .. } => Kind::Resource(gst::ResourceError::NotAuthorized),
        Error::Request(..) => Kind::Library(gst::LibraryError::Settings),
        Error::Generation(_) => Kind::Stream(gst::StreamError::Failed),
        _ => Kind::Library(gst::LibraryError::Failed),
    }
}

impl Kind {
    pub fn error(self, error: &Error) -> glib::Error {
        let text = error.to_string();
        match self {
            Self::Library(code) => glib::Error::new(code, &text),
            Self::Resource(code) => glib::Error::new(code, &text),
            Self::Stream(code) => glib::Error::new(code, &text),
        }
    }
}

/// The error message for `error`.
pub fn message(error: &Error) -> gst::ErrorMessage {
    match kind(error) {
        Kind::Library(code) => gst::error_msg!(code, ("{error}")),
        Kind::Resource(code) => gst::error_msg!(code, ("{error}")),
        Kind::Stream(code) => gst::error_msg!(code, ("{error}")),
    }
}
