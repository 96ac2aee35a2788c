// SPDX-License-Identifier: MPL-2.0

//! An application that uses `soragen`: it prints the progress, changes the prompt while playing, and ends the video.
//!
//! ```sh
//! cargo run --release -p gst-plugin-soragen --example app -- \
//!     'soragen prompt="a red fox runs over the snow" duration=-1' 'x264enc tune=zerolatency ! mp4mux ! filesink location=out.mp4'
//! ```
//!
//! Each line on stdin is a new prompt; an empty line ends the video.

use std::error::Error;
use std::io::{BufRead, Write};

use gst::prelude::*;

/// Plays `source` into `sink`, both in gst-launch syntax, until the end of the stream. Reads prompts from `prompts` and
/// writes progress and shots to `output`.
pub fn run(
    source: &str,
    sink: &str,
    prompts: impl BufRead + Send + 'static,
    mut output: impl Write,
) -> Result<(), Box<dyn Error>> {
    let pipeline = gst::parse::launch(&format!("{source} name=source ! {sink}"))?;
    let pipeline = pipeline.downcast::<gst::Pipeline>().map_err(|_| "not a pipeline")?;
    let soragen = pipeline.by_name("source").ok_or("no element is named source")?;

    let started = pipeline.set_state(gst::State::Playing);

    // Properties and signals are thread-safe and do not wait for the model.
    std::thread::spawn(move || {
        for line in prompts.lines().map_while(Result::ok) {
            match line.trim() {
                "" => soragen.emit_by_name::<()>("cancel", &[]),
                prompt => soragen.set_property("prompt", prompt),
            }
        }
    });

    let bus = pipeline.bus().ok_or("the pipeline has no bus")?;
    // If the start failed, the error is already on the bus.
    let timeout = started.is_err().then_some(gst::ClockTime::ZERO);
    let mut result = started.map(drop).map_err(Into::into);
    for message in bus.iter_timed(timeout) {
        match message.view() {
            gst::MessageView::Eos(_) => break,
            gst::MessageView::Error(error) => {
                result = Err(error.error().into());
                break;
            }
            gst::MessageView::Element(element) => match element.structure() {
                Some(at) if at.name() == "soragen-progress" => {
                    write!(
                        output,
                        "\r{:<8} step {}/{} frame {} ",
                        at.get::<&str>("phase")?,
                        at.get::<u32>("step")?,
                        at.get::<u32>("steps")?,
                        at.get::<u64>("frame")?
                    )?;
                    output.flush()?;
                }
                Some(shot) if shot.name() == "soragen-shot" => {
                    writeln!(
                        output,
                        "\rfrom frame {}: {}",
                        shot.get::<u64>("frame")?,
                        shot.get::<&str>("prompt")?
                    )?;
                }
                _ => {}
            },
            _ => {}
        }
    }
    pipeline.set_state(gst::State::Null)?;
    result
}

#[allow(dead_code)] // The tests include this file and call `run`.
fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let source = arguments.next().unwrap_or_else(|| "soragen prompt=\"a red fox runs over the snow\"".into());
    let sink = arguments.next().unwrap_or_else(|| "videoconvert ! autovideosink".into());
    gst::init()?;
    gstsoragen::plugin_register_static()?;
    run(&source, &sink, std::io::BufReader::new(std::io::stdin()), std::io::stderr())
}
