//! `soragen render`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::safetensors::Load;
use candle_core::{Device, Tensor};
use indicatif::{ProgressBar, ProgressStyle};
use safetensors::SafeTensors;
use soragen::policy::Policy;
use soragen::watermark::Marker;
use soragen::{Cancel, Length, Model, ModelInfo, OpenOptions, Phase, Progress, Request, Session};

use crate::args::RenderArgs;
use crate::error::{Error, Result};
use crate::mark;
use crate::output::{self, About};

pub fn run(args: &RenderArgs) -> Result<()> {
    // First what costs nothing to find out.
    let key = mark::key(args.watermark_key.as_deref())?;
    let kind = output::Kind::of(&args.output)?;
    let info = ModelInfo::read(&args.model)?;
    let request = Request {
        prompt: args.prompt.clone(),
        negative_prompt: args.negative.clone(),
        image: args.image.as_deref().map(soragen::read_image).transpose()?,
        size: args.size,
        length: length(args, &info),
        seed: args.seed,
        steps: args.steps,
        guidance_scale: args.guidance,
        shift: args.shift,
        initial_latents: args.initial_latents.as_deref().map(read_latents).transpose()?,
        policy: Some(Policy::open(args.policy.as_deref(), args.audit_log.as_deref())?),
    };

    let cancel = Cancel::new();
    let interrupted = Arc::new(AtomicBool::new(false));
    ctrlc::set_handler({
        let (cancel, interrupted) = (cancel.clone(), interrupted.clone());
        move || {
            // The second time it is meant: do not wait for the file to be finished.
            if interrupted.swap(true, Ordering::Relaxed) {
                output::abandon();
                std::process::exit(crate::INTERRUPTED.into());
            }
            cancel.cancel();
        }
    })?;

    let options = OpenOptions { device: args.device.clone(), ..Default::default() };
    let model = Model::open(&args.model, &options)?;
    let title = request.prompt.clone();
    let mut session = Session::new(model, request)?;
    // Frames for checking numbers are as the autoencoder made them.
    let marker = (!args.no_watermark && kind != output::Kind::Safetensors)
        .then(|| Marker::new(&key, session.generation_id()));
    let about = About { size: session.size(), frame_rate: info.frame_rate, title };
    let mut writer = kind.create(&args.output, &about)?;

    let bar = progress_bar(session.total_frames());
    let made = loop {
        match session.next_chunk(&cancel, &mut |progress| show(&bar, progress)) {
            Ok(Some(frames)) => {
                for frame in frames.iter() {
                    match &marker {
                        Some(marker) => writer.write(&mark::marked(marker, frame, frames.size))?,
                        None => writer.write(frame)?,
                    }
                }
                bar.inc(frames.len() as u64);
            }
            Ok(None) => break Ok(()),
            Err(soragen::Error::Cancelled) => break Err(Error::Interrupted),
            // Nothing half-made is left: the writer goes without having been finished.
            Err(error) => return Err(error.into()),
        }
    };
    bar.finish_and_clear();
    // What was made before an interrupt is kept, and plays.
    let kept = writer.finish()?;
    match (&made, kept) {
        (_, true) => eprintln!("{}", args.output.display()),
        (_, false) => eprintln!("soragen: stopped before the first frame; no file was made"),
    }
    made
}

fn length(args: &RenderArgs, info: &ModelInfo) -> Length {
    let (numerator, denominator) = info.frame_rate;
    match (args.frames, args.duration) {
        (Some(frames), _) => Length::Frames(frames),
        (None, Some(seconds)) => {
            let frames = seconds * f64::from(numerator) / f64::from(denominator);
            Length::Frames((frames.round() as u64).max(1))
        }
        (None, None) => Length::Natural,
    }
}

fn read_latents(path: &Path) -> Result<Tensor> {
    let bytes = std::fs::read(path).map_err(|e| Error::file(path, e))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|e| Error::file(path, format!("not a safetensors file: {e}")))?;
    let latents =
        file.tensor("latents").map_err(|_| Error::file(path, "there is no tensor `latents` in it"))?;
    latents
        .load(&Device::Cpu)
        .map_err(|_| Error::file(path, "the tensor `latents` is of a type that is not read; f32 is"))
}

fn progress_bar(total: Option<u64>) -> ProgressBar {
    // Draws on stderr, and only where that is a terminal.
    let bar = ProgressBar::new(total.unwrap_or_default());
    if let Ok(style) =
        ProgressStyle::with_template("{bar:30} {pos}/{len} frames  {msg}  {elapsed}, {eta} left")
    {
        bar.set_style(style);
    }
    bar
}

fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_message(match progress.phase {
        Phase::Text => "reading the prompt".to_string(),
        Phase::Denoise => format!("step {}/{}", progress.step, progress.steps),
        Phase::Decode => "decoding".to_string(),
    });
}
