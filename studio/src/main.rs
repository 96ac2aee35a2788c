//! `soragen-studio`: a page in the browser that shows a live `soragen` and steers it.
//!
//! [`programme`] is the pipeline, [`viewers`] connects browsers to its `webrtcsink`, [`camera`] takes the picture of a browser,
//! [`recording`] and [`hls`] write files beside it, [`cues`] play a storyboard, [`uploads`] keep pictures, and [`server`] serves the page
//! and a WebSocket with the messages of [`protocol`].

mod args;
mod camera;
mod cues;
mod error;
mod hls;
mod programme;
mod protocol;
mod recording;
mod server;
mod uploads;
mod viewers;

use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};

use clap::Parser;

use crate::args::Args;
use crate::error::{Error, Result};
use crate::programme::Programme;

/// Locks `mutex`, also after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A folder that is removed with its handle.
///
/// # Errors
/// [`Error::File`] if it cannot be made.
fn temporary_folder() -> Result<tempfile::TempDir> {
    tempfile::tempdir().map_err(|error| Error::File { path: std::env::temp_dir(), reason: error.to_string() })
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("soragen-studio: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    args.check()?;
    gst::init()?;
    gstsoragen::plugin_register_static()?;
    gstsoraprovenance::plugin_register_static()?;
    gstrswebrtc::plugin_register_static()?;
    let runtime = tokio::runtime::Runtime::new().map_err(Error::Listen)?;
    let programme = Programme::start(args)?;
    let served = runtime.block_on(server::serve(args, programme.clone()));
    programme.stop();
    served
}
