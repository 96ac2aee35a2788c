// SPDX-License-Identifier: MPL-2.0

//! From the engine's errors to GStreamer's.

use soragen::Error;

/// The error message for `error`. Its domain and code say what kind it is, its text what to do.
pub fn message(error: &Error) -> gst::ErrorMessage {
    let text = error.to_string();
    match error {
        Error::NotFound { .. } => gst::error_msg!(gst::ResourceError::NotFound, ("{text}")),
        Error::Invalid { .. } => gst::error_msg!(gst::ResourceError::OpenRead, ("{text}")),
        Error::Download { .. } => gst::error_msg!(gst::ResourceError::OpenRead, ("{text}")),
        Error::Io { .. } => gst::error_msg!(gst::ResourceError::Read, ("{text}")),
        Error::Device(_) => gst::error_msg!(gst::ResourceError::Settings, ("{text}")),
        Error::Memory(_) => gst::error_msg!(gst::ResourceError::NoSpaceLeft, ("{text}")),
        Error::Refused { .. } => gst::error_msg!(gst::ResourceError::NotAuthorized, ("{text}")),
        Error::Request(..) => gst::error_msg!(gst::LibraryError::Settings, ("{text}")),
        Error::Generation(_) => gst::error_msg!(gst::StreamError::Failed, ("{text}")),
        _ => gst::error_msg!(gst::LibraryError::Failed, ("{text}")),
    }
}
