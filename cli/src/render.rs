//! `soragen render`.

use std::path::Path;
use std::time::Duration;

use candle_core::safetensors::Load;
use candle_core::{Device, Tensor};
use gstsoragen::VideoInput;
use gstsoraprovenance::Destination;
use image::{DynamicImage, RgbImage};
use indicatif::{ProgressBar, ProgressStyle};
use safetensors::SafeTensors;
use soragen::checkpoint::Parts;
use soragen::policy::Policy;
use soragen::watermark::WatermarkKey;
use soragen::{
    Cache, Cancel, Control, Length, Model, ModelInfo, MotionPath, OpenOptions, Phase, Progress, Reference,
    Request, Restyle, Session, Size, Storyboard, Threads,
};

use crate::args::RenderArgs;
use crate::error::{Error, Result};
use crate::hub;
use crate::output::{self, OutputInfo};
use crate::signing::Signing;
use crate::timeline::Timeline;

pub fn run(args: &RenderArgs) -> Result<()> {
    let threads = Threads::new(args.threads.into())?;
    if let Some(warning) = threads.warning() {
        eprintln!("soragen: {warning}");
    }
    threads.run(|| render(args))
}

fn render(args: &RenderArgs) -> Result<()> {
    // Check what is cheap to check before the model is loaded.
    let key = WatermarkKey::open(args.watermark_key.as_deref())?;
    let kind = output::Kind::from_path(&args.output, args.codec)?;
    if args.signing.certificate.is_some() && !kind.supports_signing() {
        return Err(Error::Usage(
            "only .mp4 and .mov can be signed; change --output or remove --certificate".into(),
        ));
    }
    if let Some(timeline) = &args.timeline {
        if *timeline == args.output {
            return Err(Error::Usage("--timeline and --output are the same file; change one of them".into()));
        }
        Destination::of(timeline)?;
    }
    if args.storyboard.is_none() && args.prompt.as_ref().is_none_or(|prompt| prompt.trim().is_empty()) {
        let reason = "the prompt is empty; say what to show, or use --storyboard";
        return Err(soragen::Error::Request(soragen::Setting::Prompt, reason.into()).into());
    }
    let parts = Parts::from(&args.parts);
    let cancel = crate::interrupt::cancel()?;
    hub::pull_if_missing(&args.model, &cancel)?;
    let info = ModelInfo::read(&args.model, &parts)?;
    let storyboard = args.storyboard.as_deref().map(Storyboard::open).transpose()?;
    let prompts = storyboard.iter().flat_map(|board| &board.shots).map(|shot| shot.prompt.as_str());
    let title = prompts.chain(args.prompt.as_deref()).next().unwrap_or_default().to_string();
    let end = storyboard.as_ref().and_then(|board| board.end);
    let references = args.reference.iter().filter(|text| !Reference::is_of_bank(text)).map(Path::new);
    let images = storyboard.iter().flat_map(Storyboard::images).chain(args.image.as_deref());
    let images = images.chain(args.last_image.as_deref()).chain(references);
    let images = images.map(|path| path.to_string_lossy().into_owned()).collect();
    let mut request = Request::new(args.prompt.clone().unwrap_or_default());
    request.shots = storyboard.map(|board| board.shots()).transpose()?.unwrap_or_default();
    request.blend_chunks = args.blend_chunks;
    request.negative_prompt = args.negative.clone();
    request.image = args.image.as_deref().map(soragen::read_image).transpose()?;
    request.last_image = args.last_image.as_deref().map(soragen::read_image).transpose()?;
    request.loops = args.loops;
    request.control_scale = args.control_scale;
    request.references =
        args.reference.iter().map(|text| Reference::open(text)).collect::<soragen::Result<_>>()?;
    request.motion_path = args.motion_path.as_deref().map(MotionPath::parse).transpose()?;
    let source = args.video.as_deref();
    // Where its mask is black, the control video is shown.
    let edited = args.control.as_deref().filter(|_| args.mask.is_some());
    let shown = source.or(args.extend.as_deref()).or(edited);
    if args.extend.is_some() {
        info.check_extend()?;
    }
    let mut input = source.map(|source| VideoInput::open(source, info.frame_rate, &cancel)).transpose()?;
    let most = info.past_frames as usize;
    let like = |width, height| args.size.unwrap_or_else(|| info.sizes.like(width, height));
    let last_frames = |source| VideoInput::last_frames(source, most, info.frame_rate, like, &cancel);
    let (past, past_start) = args.extend.as_deref().map(last_frames).transpose()?.unwrap_or_default();
    let (strength, motion_noise) = (args.strength, args.motion_noise);
    request.restyle = input.is_some().then_some(Restyle { strength, motion_noise });
    request.size = args.size.or_else(|| {
        let (width, height) = match (&input, past.first()) {
            (Some(input), _) => input.dimensions(),
            (None, Some(frame)) => frame.dimensions(),
            (None, None) => return None,
        };
        Some(like(width, height))
    });
    request.past = past;
    request.past_start = past_start;
    request.control = control(args, end, &info, like, &cancel)?;
    request.length = match length(args, end, &info) {
        // Until the end of the video, if the model can.
        Length::Natural if input.is_some() && info.causal && info.max_frames.is_none() => Length::Endless,
        length => length,
    };
    request.seed = args.seed;
    request.steps = args.steps;
    request.guidance_scale = args.guidance;
    request.guidance_scale_2 = args.guidance_2;
    request.shift = args.shift;
    request.initial_latents = args.initial_latents.as_deref().map(read_latents).transpose()?;
    request.policy = Some(Policy::open(args.policy.as_deref(), args.audit_log.as_deref())?);
    request.label = args.label;
    request.watermark = (!args.no_watermark).then_some(key);
    request.watermark_strength = args.watermark_strength;

    let mut options = OpenOptions::default();
    options.device = args.device.clone();
    options.precision = args.precision;
    options.decoder = args.decoder;
    options.offload = args.offload;
    options.parts = parts;
    let model = Model::open(&args.model, &options, &cancel)?;
    model.notes().iter().for_each(|note| eprintln!("soragen: {note}"));
    let cache = Cache::open(args.cache.cache_dir.as_deref(), Cache::DEFAULT_SIZE);
    let mut session = match &cache {
        Some(cache) => Session::with_cache(model, request, cache.clone())?,
        None => Session::new(model, request)?,
    };
    let signing = args.signing.options().map(|options| Signing {
        options,
        model: info.name.clone(),
        generation_id: session.watermark_id(),
        restyled: shown.is_some(),
        ingredient: shown.filter(|source| Path::new(source).exists()).map(Into::into),
        images,
    });
    let output_info = OutputInfo {
        size: session.size(),
        frame_rate: info.frame_rate,
        title,
        cuts: args.storyboard.is_some(),
        signing,
    };
    let mut output = kind.create(&args.output, &output_info)?;
    let mut offset = 0;
    if let Some(source) = &args.extend {
        let mut before = VideoInput::open(source, info.frame_rate, &cancel)?;
        while let Some(frame) = before.next(&cancel)? {
            output.write_frame(&soragen::stretch_frame(&frame, session.size())?)?;
            offset += 1;
        }
    }
    let mut timeline = Timeline::new(info.frame_rate, offset);

    let bar = progress_bar(session.total_frames());
    let mut is_made = false;
    let result = loop {
        let fed = input.as_mut().map_or(Ok(()), |input| feed(&mut session, input, &cancel));
        let written = fed
            .and_then(|()| output.write_chunk(&mut session, &cancel, &mut |progress| show(&bar, progress)));
        match written {
            Ok(Some(end)) => {
                is_made = true;
                timeline.add(session.shot(), end);
                bar.set_length(session.total_frames().unwrap_or(end));
                bar.set_position(end);
            }
            Ok(None) => break Ok(()),
            Err(Error::Interrupted) => break Err(Error::Interrupted),
            // The writer is dropped unfinished, which removes its file.
            Err(error) => return Err(error),
        }
    };
    bar.finish_and_clear();
    if let Some(failure) = cache.and_then(|cache| cache.failure()) {
        eprintln!("soragen: cannot write the cache: {failure}");
    }
    // After an interrupt the frames so far are kept as a playable file.
    // A video that was only copied is not kept.
    let kept = is_made && output.finish()?;
    if let Some(path) = args.timeline.as_deref().filter(|_| kept) {
        match timeline.write(path, &args.output) {
            Err(error) if result.is_ok() => return Err(error),
            Err(error) => eprintln!("soragen: {error}"),
            Ok(()) => {}
        }
    }
    if kept {
        eprintln!("{}", args.output.display());
    } else {
        eprintln!("soragen: stopped before the first frame; no file was written");
    }
    result
}

/// The control video and its mask, in the size that the model makes of one `like` it, and cut off at the length of the new video.
fn control(
    args: &RenderArgs,
    end: Option<Duration>,
    info: &ModelInfo,
    like: impl Fn(u32, u32) -> Size,
    cancel: &Cancel,
) -> Result<Option<Control>> {
    let Some(source) = args.control.as_deref() else { return Ok(None) };
    info.check_control()?;
    let most = match length(args, end, info) {
        Length::Frames(frames) => frames,
        _ => info.natural_frames,
    } as usize;
    let mut size = None;
    let mut read = |source: &str| -> Result<Vec<_>> {
        let mut input = VideoInput::open(source, info.frame_rate, cancel)?;
        let (width, height) = input.dimensions();
        let size = *size.get_or_insert_with(|| like(width, height));
        let mut frames = Vec::new();
        while let Some(frame) = input.next(cancel)?.filter(|_| frames.len() < most) {
            frames.push(gstsoragen::stretched(&frame, size)?);
        }
        Ok(frames)
    };
    let frames = read(source)?;
    let grey = |frame: RgbImage| DynamicImage::from(frame).into_luma8();
    let mask = args.mask.as_deref().map(&mut read).transpose()?.unwrap_or_default();
    let mut mask: Vec<_> = mask.into_iter().map(grey).collect();
    if let (1, Some(still)) = (mask.len(), mask.first().cloned()) {
        mask.resize(frames.len(), still);
    }
    mask.truncate(frames.len());
    Ok(Some(Control { frames, mask }))
}

/// Gives the session the frames for its next chunk.
fn feed(session: &mut Session, input: &mut VideoInput, cancel: &Cancel) -> Result<()> {
    while session.missing_frames() > 0 {
        match input.next(cancel)? {
            Some(frame) => session.push_frames(&soragen::stretch_frame(&frame, session.size())?)?,
            None => session.end_video(),
        }
    }
    Ok(())
}

fn length(args: &RenderArgs, end: Option<Duration>, info: &ModelInfo) -> Length {
    let (numerator, denominator) = info.frame_rate;
    match (args.frames, args.duration) {
        (Some(frames), _) => Length::Frames(frames),
        (None, Some(seconds)) => {
            let frames = seconds * f64::from(numerator) / f64::from(denominator);
            Length::Frames((frames.round() as u64).max(1))
        }
        (None, None) => end.map_or(Length::Natural, |end| Length::Frames(info.frame_at(end).max(1))),
    }
}

fn read_latents(path: &Path) -> Result<Tensor> {
    let bytes = std::fs::read(path).map_err(|e| Error::file(path, e))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|e| Error::file(path, format!("not a safetensors file: {e}")))?;
    let latents =
        file.tensor("latents").map_err(|_| Error::file(path, "the file has no tensor `latents`"))?;
    latents
        .load(&Device::Cpu)
        .map_err(|_| Error::file(path, "unsupported data type of the tensor `latents`; use f32"))
}

fn progress_bar(total: Option<u64>) -> ProgressBar {
    // Drawn on stderr, and only on a terminal.
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
        Phase::Text => "encoding the prompt".to_string(),
        Phase::Denoise => format!("step {}/{}", progress.step, progress.steps),
        Phase::Decode => "decoding".to_string(),
    });
}
