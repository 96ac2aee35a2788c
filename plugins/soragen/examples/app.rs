// SPDX-License-Identifier: MPL-2.0

//! An application around `soragen`: how far it is, prompts that change while it makes the video, and an end on demand.
//!
//! ```sh
//! cargo run --release -p gst-plugin-soragen --example app -- \
//!     'soragen prompt="a red fox runs over the snow" duration=-1' 'x264enc tune=zerolatency ! mp4mux ! filesink location=out.mp4'
//! ```
//!
//! A line on stdin is the next prompt; an empty one ends the video.

use std::error::Error;
use std::io::{BufRead, Write};

use gst::prelude::*;

/// Plays `source` into `sink`, both as gst-launch writes them, until its end. Prompts are read from `prompts`; what
/// there is to tell goes to `told`.
pub fn run(
    source: &str,
    sink: &str,
    prompts: impl BufRead + Send + 'static,
    mut told: impl Write,
) -> Result<(), Box<dyn Error>> {
    let pipeline = gst::parse::launch(&format!("{source} name=source ! {sink}"))?;
    let pipeline = pipeline.downcast::<gst::Pipeline>().map_err(|_| "not a pipeline")?;
    let soragen = pipeline.by_name("source").ok_or("there is no source")?;

    let started = pipeline.set_state(gst::State::Playing);

    // Every property may be written from any thread at any time; neither it nor the signal waits for the model.
    std::thread::spawn(move || {
        for line in prompts.lines().map_while(Result::ok) {
            match line.trim() {
                "" => soragen.emit_by_name::<()>("cancel", &[]),
                prompt => soragen.set_property("prompt", prompt),
            }
        }
    });

    let bus = pipeline.bus().ok_or("there is no bus")?;
    // What does not start has posted already why.
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
                        told,
                        "\r{:<8} step {}/{} frame {} ",
                        at.get::<&str>("phase")?,
                        at.get::<u32>("step")?,
                        at.get::<u32>("steps")?,
                        at.get::<u64>("frame")?
                    )?;
                    told.flush()?;
                }
                Some(shot) if shot.name() == "soragen-shot" => {
                    writeln!(
                        told,
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

#[allow(dead_code)] // Tests call `run`.
fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let source = arguments.next().unwrap_or_else(|| "soragen prompt=\"a red fox runs over the snow\"".into());
    let sink = arguments.next().unwrap_or_else(|| "videoconvert ! autovideosink".into());
    gst::init()?;
    gstsoragen::plugin_register_static()?;
    run(&source, &sink, std::io::BufReader::new(std::io::stdin()), std::io::stderr())
}
