//! `soragen-studio`: a page in the browser that shows a live `soragen` and steers it.
//!
//! [`programme`] is the pipeline, [`viewers`] connects browsers to its `webrtcsink`, [`recording`] writes a file beside it, and [`server`]
//! serves the page and a WebSocket with the messages of [`protocol`].

mod args;
mod error;
mod programme;
mod protocol;
mod recording;
mod server;
mod viewers;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Args;
use crate::error::Result;
use crate::programme::Programme;

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
    let runtime = tokio::runtime::Runtime::new().map_err(error::Error::Listen)?;
    let programme = Programme::start(args)?;
    let served = runtime.block_on(server::serve(args, programme.clone()));
    programme.stop();
    served
}
