//! Checks a request against a model, and fills in the model's own values. Every prompt passes the policy here.

use std::sync::Arc;

use candle_core::Tensor;
use image::RgbImage;

use super::guidance::Guidance;
use crate::digest::Digest;
use crate::error::refuse;
use crate::label::Label;
use crate::policy::Policy;
use crate::request::Shot;
use crate::scheduler::MAX_STEPS;
use crate::text::weighted;
use crate::watermark::{GenerationId, STRENGTHS, WatermarkKey};
use crate::{
    Control, Error, Length, ModelInfo, MotionPath, Reference, Request, Restyle, Result, Setting, Size,
    Transition,
};

/// Limit of a prompt in bytes. Text encoders read at most 512 tokens.
const MAX_PROMPT_BYTES: usize = 1 << 14;

/// A request that the model can fulfil, with the model's own values where the request has none.
pub struct ValidatedRequest {
    pub size: Size,
    /// Frames of the whole video; `None` without an end.
    pub total_frames: Option<u64>,
    /// In order, the first at 0. The timeline takes them.
    pub shots: Vec<Shot>,
    pub steps: u32,
    pub shift: Option<f64>,
    pub blend_chunks: u32,
    pub seed: u64,
    pub guidance: Guidance,
    pub negative_prompt: String,
    pub initial_latents: Option<Tensor>,
    pub references: Vec<Reference>,
    pub motion_path: Option<MotionPath>,
    pub restyle: Option<Restyle>,
    pub last_image: Option<RgbImage>,
    pub control: Option<Arc<Control>>,
    pub loops: bool,
    pub control_scale: f64,
    /// The session takes them.
    pub past: Vec<RgbImage>,
    /// Frames before them.
    pub past_start: u64,
    /// Whether there are any.
    pub continues: bool,
    pub label: Label,
    pub watermark: Option<WatermarkKey>,
    pub watermark_strength: f64,
    pub embed_watermark: bool,
    pub policy: Arc<Policy>,
}

impl ValidatedRequest {
    /// Checks `request` against the abilities of the model.
    ///
    /// # Errors
    /// [`Error::Request`] names the setting and says what the model can make; [`Error::Refused`] by the policy.
    pub fn new(mut request: Request, info: &ModelInfo) -> Result<Self> {
        let size = size(&request, info)?;
        let total_frames = total_frames(&request, info)?;
        let policy = request.policy.take().unwrap_or_else(Policy::built_in);
        check_references(&request.references, request.motion_path.as_ref(), info)?;
        let shots = shots(&mut request, info, &policy)?;
        if let Some(restyle) = &request.restyle {
            check_restyle(restyle, info)?;
            shots.iter().enumerate().try_for_each(|(i, shot)| check_restyled_shot(shot, i == 0))?;
        }
        check_past(&request, &shots, info)?;
        check_control(&request, shots.len(), info)?;
        if info.has_reference_latents() {
            check_reference_latents(&request, &shots)?;
        }
        let last_image = last_image(&mut request, &shots, total_frames, info)?;
        let steps = check_steps(request.steps.unwrap_or(info.steps))?;
        let guidance = Guidance::new(request.guidance_scale, request.guidance_scale_2, info)?;
        check_shift(request.shift)?;
        let strength = request.watermark_strength;
        if !STRENGTHS.contains(&strength) {
            let (least, most) = (*STRENGTHS.start(), *STRENGTHS.end());
            return refuse(
                Setting::WatermarkStrength,
                format!("a watermark strength of {strength} is not possible; use {least} to {most}"),
            );
        }
        let negative_prompt = negative_prompt(request.negative_prompt.as_deref(), info, &policy)?;
        Ok(Self {
            size,
            total_frames,
            shots,
            steps,
            shift: request.shift,
            blend_chunks: request.blend_chunks,
            seed: request.seed,
            guidance,
            negative_prompt,
            initial_latents: request.initial_latents,
            references: request.references,
            motion_path: request.motion_path,
            restyle: request.restyle,
            last_image,
            control: request.control.map(Arc::new),
            loops: request.loops,
            control_scale: request.control_scale,
            continues: !request.past.is_empty(),
            past: request.past,
            past_start: request.past_start,
            label: request.label,
            watermark: request.watermark,
            watermark_strength: request.watermark_strength,
            embed_watermark: request.embed_watermark,
            policy,
        })
    }

    /// `digest` with the image that the video ends with, and with what steers a VACE model.
    pub fn with_conditions(&self, mut digest: Digest) -> Digest {
        let raw = |digest: Digest, name: &str, (width, height): (u32, u32), samples: &[u8]| {
            digest.with(name, format!("{width}x{height}").as_bytes()).with(name, samples)
        };
        if let Some(image) = &self.last_image {
            digest = raw(digest, "last image", image.dimensions(), image.as_raw());
        }
        if let Some(Control { frames, mask }) = self.control.as_deref() {
            for frame in frames {
                digest = raw(digest, "control", frame.dimensions(), frame.as_raw());
            }
            for mask in mask {
                digest = raw(digest, "mask", mask.dimensions(), mask.as_raw());
            }
        }
        match self.control_scale {
            1.0 => digest,
            scale => digest.with("control scale", &scale.to_le_bytes()),
        }
    }

    /// A digest of the request and the name of the model, without length and initial latents.
    pub fn generation_id(&self, info: &ModelInfo) -> GenerationId {
        let Self { size, seed, steps, guidance, shift, blend_chunks, .. } = self;
        let mut numbers = format!("{size} {seed} {steps} {} {shift:?} {blend_chunks}", guidance.scale);
        if info.guidance_scale_2.is_some() {
            numbers += &format!(" {}", guidance.scale_2);
        }
        let mut digest = Digest::new("request")
            .with("model", info.name.as_bytes())
            .with("numbers", numbers.as_bytes())
            .with("negative", self.negative_prompt.as_bytes());
        digest = with_references(digest, &self.references, self.motion_path.as_ref());
        if let Some(restyle) = &self.restyle {
            digest = digest.with("restyle", format!("{restyle:?}").as_bytes());
        }
        for frame in &self.past {
            digest = digest.with("past", frame.as_raw());
        }
        if self.continues {
            digest = digest.with("past start", &self.past_start.to_le_bytes());
        }
        digest = self.with_conditions(digest);
        for Shot { start, prompt, seed, image, references, motion_path, transition } in &self.shots {
            digest = digest
                .with("shot", format!("{start:?} {seed:?} {transition:?}").as_bytes())
                .with("prompt", prompt.as_bytes())
                .with("image", image.as_ref().map_or(&[][..], |image| image.as_raw()));
            digest = with_references(digest, references, motion_path.as_ref());
        }
        GenerationId::new(digest.first_bytes().iter().fold(0, |id, byte| id << 8 | u64::from(*byte)))
    }
}

/// The digest of a request without references is the same as before there were any.
fn with_references(mut digest: Digest, references: &[Reference], path: Option<&MotionPath>) -> Digest {
    for reference in references {
        digest = digest.with("reference", reference.digest().as_bytes());
    }
    path.map_or(digest, |path| digest.with("motion path", path.to_string().as_bytes()))
}

fn size(request: &Request, info: &ModelInfo) -> Result<Size> {
    let control = request.control.as_ref().and_then(|control| control.frames.first());
    let of_shot = request.shots.first().and_then(|shot| shot.image.as_ref());
    let image = request.image.as_ref().or(of_shot).or(control);
    let size = request.size.unwrap_or_else(|| match image {
        Some(image) => info.sizes.like(image.width(), image.height()),
        None => info.sizes.default_size(),
    });
    match info.sizes.contains(size) {
        true => Ok(size),
        false => refuse(Setting::Size, format!("{} cannot make {size}; it makes {}", info.name, info.sizes)),
    }
}

fn total_frames(request: &Request, info: &ModelInfo) -> Result<Option<u64>> {
    match request.length {
        Length::Natural => Ok(Some(match &request.control {
            Some(control) if !control.frames.is_empty() => control.frames.len() as u64,
            _ => info.natural_length(request.loops),
        })),
        Length::Frames(0) => refuse(Setting::Length, "a video needs at least one frame".into()),
        Length::Frames(frames) => Ok(Some(frames)),
        Length::Endless if info.max_frames.is_none() => Ok(None),
        Length::Endless if info.causal => refuse(
            Setting::Length,
            format!("the scenes of {} have a maximum length; set a duration", info.name),
        ),
        Length::Endless => refuse(
            Setting::Length,
            format!("{} makes its video in one piece, which needs an end; set a duration", info.name),
        ),
    }
}

/// The shots of `request`. A plain prompt is one shot.
fn shots(request: &mut Request, info: &ModelInfo, policy: &Policy) -> Result<Vec<Shot>> {
    let mut shots = std::mem::take(&mut request.shots);
    let image = request.image.take();
    match shots.first_mut() {
        Some(first) => first.image = first.image.take().or(image),
        None => shots.push(Shot {
            image,
            transition: Transition::Cut,
            ..Shot::new(std::time::Duration::ZERO, std::mem::take(&mut request.prompt))
        }),
    }
    if !shots[0].start.is_zero() {
        return refuse(Setting::Shots, "the first shot must start at 0".into());
    }
    // No video before it to continue.
    shots[0].transition = Transition::Cut;
    if !shots.is_sorted_by(|a, b| a.start < b.start) {
        return refuse(Setting::Shots, "each shot must start later than the one before it".into());
    }
    // Those of the request belong to every shot without its own.
    let digests: Vec<_> = request.references.iter().map(Reference::digest).collect();
    shots.iter().try_for_each(|shot| check_shot(shot, &digests, info, policy))?;
    Ok(shots)
}

/// Checks the settings of a video that goes in.
pub fn check_restyle(restyle: &Restyle, info: &ModelInfo) -> Result<()> {
    for (setting, value) in
        [(Setting::Strength, restyle.strength), (Setting::MotionNoise, restyle.motion_noise)]
    {
        if !(0.0..=1.0).contains(&value) {
            return refuse(setting, format!("a {setting} of {value} is not possible; use 0 to 1"));
        }
    }
    if info.needs_image {
        return refuse(
            Setting::Video,
            format!("{} starts from an image; for a video use a text-to-video model", info.name),
        );
    }
    Ok(())
}

/// Checks a shot of a video that goes in; the `first` one has a cut before it.
pub fn check_restyled_shot(shot: &Shot, first: bool) -> Result<()> {
    if shot.image.is_some() {
        return refuse(Setting::Image, "a video goes in; it cannot start from an image too".into());
    }
    if !first && shot.transition == Transition::Cut {
        return refuse(
            Setting::Shots,
            "a video goes in, and only it can have cuts; let the shots continue".into(),
        );
    }
    Ok(())
}

/// Models of the hub that can end with an image, and that take a control video.
const LAST_IMAGE_MODELS: &str = "a VACE model, Wan 2.1 FLF2V-14B or Wan 2.2 I2V-A14B, such as \
                                 hf:Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers";
const CONTROL_MODELS: &str = "hf:Wan-AI/Wan2.1-VACE-1.3B-diffusers";

impl ModelInfo {
    /// Checks that the model can continue a video.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) names models that can.
    pub fn check_extend(&self) -> Result<()> {
        if self.past_frames > 0 {
            return Ok(());
        }
        let reason = format!(
            "{} cannot continue a video; use a causal model, such as builtin, or a VACE model, such as {CONTROL_MODELS}",
            self.name
        );
        refuse(Setting::Video, reason)
    }

    /// Checks that a control video can steer the model.
    ///
    /// # Errors
    /// As [`check_extend`](Self::check_extend).
    pub fn check_control(&self) -> Result<()> {
        match self.control {
            true => Ok(()),
            false => {
                let reason = format!(
                    "{} takes no control video; use a VACE model, such as {CONTROL_MODELS}",
                    self.name
                );
                refuse(Setting::Control, reason)
            }
        }
    }
}

/// A number of steps that is possible.
pub fn check_steps(steps: u32) -> Result<u32> {
    match (1..=MAX_STEPS).contains(&steps) {
        true => Ok(steps),
        false => refuse(Setting::Steps, format!("{steps} steps are not possible; use 1 to {MAX_STEPS}")),
    }
}

/// Checks the shift of the noise schedule.
pub fn check_shift(shift: Option<f64>) -> Result<()> {
    match shift.filter(|shift| !(shift.is_finite() && *shift > 0.0)) {
        Some(shift) => refuse(Setting::Shift, format!("a shift of {shift} is not possible; use one above 0")),
        None => Ok(()),
    }
}

/// Checks how much a control video steers.
pub fn check_control_scale(scale: f64) -> Result<()> {
    match (0.0..=2.0).contains(&scale) {
        true => Ok(()),
        false => refuse(Setting::Control, format!("a control scale of {scale} is not possible; use 0 to 2")),
    }
}

/// Checks the control video and its scale.
fn check_control(request: &Request, shots: usize, info: &ModelInfo) -> Result<()> {
    let scale = request.control_scale;
    check_control_scale(scale)?;
    if request.control.is_some() || scale != 1.0 {
        info.check_control()?;
    }
    let Some(Control { frames, mask }) = &request.control else { return Ok(()) };
    if shots > 1 {
        return refuse(Setting::Control, "a control video steers one shot; remove the other shots".into());
    }
    if info.causal && !request.past.is_empty() {
        let reason =
            format!("{} cannot be steered while it continues a video; remove one of them", info.name);
        return refuse(Setting::Control, reason);
    }
    if frames.is_empty() || !(mask.is_empty() || mask.len() == frames.len()) {
        let reason = format!(
            "the control video has {} frames and its mask {}; it needs at least one, and as many masks or none",
            frames.len(),
            mask.len()
        );
        return refuse(Setting::Control, reason);
    }
    Ok(())
}

/// Checks the references of a model that makes a latent frame of each.
fn check_reference_latents(request: &Request, shots: &[Shot]) -> Result<()> {
    let of_shots = shots.iter().any(|shot| !shot.references.is_empty());
    if request.restyle.is_some() && (of_shots || !request.references.is_empty()) {
        let reason = "a video that goes in cannot be changed with references; remove one of them";
        return refuse(Setting::Reference, reason.into());
    }
    if request.initial_latents.is_some() && of_shots {
        let reason = "with initial latents every shot has the same references; set those of the request";
        return refuse(Setting::InitialLatents, reason.into());
    }
    Ok(())
}

/// The image that the video ends with.
fn last_image(
    request: &mut Request,
    shots: &[Shot],
    frames: Option<u64>,
    info: &ModelInfo,
) -> Result<Option<RgbImage>> {
    let image = match (request.last_image.take(), request.loops) {
        (Some(_), true) => {
            return refuse(
                Setting::Loop,
                "a loop ends with the image that it starts from; remove `last-image`".into(),
            );
        }
        (image, false) => image,
        (None, true) => match shots.first().and_then(|shot| shot.image.clone()) {
            None => return refuse(Setting::Loop, "a loop starts and ends with an image; set `image`".into()),
            image => image,
        },
    };
    let setting = if request.loops { Setting::Loop } else { Setting::LastImage };
    if image.is_none() {
        return match info.needs_last_image {
            true => refuse(setting, format!("{} ends with an image; set `last-image`", info.name)),
            false => Ok(None),
        };
    }
    if !info.last_image {
        let reason = format!("{} cannot end with an image; use {LAST_IMAGE_MODELS}", info.name);
        return refuse(setting, reason);
    }
    if shots.len() > 1 {
        return refuse(setting, "one shot can end with an image; remove the other shots".into());
    }
    if frames == Some(1) {
        return refuse(
            setting,
            "a video of one frame cannot start and end with an image; make it longer".into(),
        );
    }
    let step = info.latent_frames;
    let fewer = |frames: u64| (frames / step * step).max(step);
    match (request.loops, frames) {
        (true, Some(frames)) if !frames.is_multiple_of(step) => {
            let reason = format!(
                "a loop of {frames} frames is not possible; use a multiple of {step}, such as {}",
                fewer(frames)
            );
            return refuse(setting, reason);
        }
        // Its mask knows the last frame of a latent frame only.
        (false, Some(frames)) if !info.control && !(frames - 1).is_multiple_of(step) => {
            let reason = format!(
                "{} ends with an image after one frame more than a multiple of {step}, such as {} frames, not after {frames}",
                info.name,
                fewer(frames) + 1
            );
            return refuse(setting, reason);
        }
        _ => {}
    }
    Ok(image)
}

/// Checks the video that this one continues.
fn check_past(request: &Request, shots: &[Shot], info: &ModelInfo) -> Result<()> {
    if request.past.is_empty() {
        return Ok(());
    }
    info.check_extend()?;
    if request.initial_latents.is_some() {
        return refuse(
            Setting::InitialLatents,
            "the video continues another one; it has no own noise".into(),
        );
    }
    if request.restyle.is_some() || shots.first().is_some_and(|shot| shot.image.is_some()) {
        let reason = "the video continues another one; it cannot start from an image or change a video too";
        return refuse(Setting::Video, reason.into());
    }
    Ok(())
}

/// Checks references and their path against the abilities of the model.
pub fn check_references(references: &[Reference], path: Option<&MotionPath>, info: &ModelInfo) -> Result<()> {
    let (name, most) = (&info.name, info.max_references);
    if most == 0 && !references.is_empty() {
        return refuse(Setting::Reference, format!("{name} takes no references"));
    }
    if references.len() > most {
        let count = references.len();
        return refuse(Setting::Reference, format!("{name} takes at most {most} references, not {count}"));
    }
    match path.map(MotionPath::subjects) {
        Some(_) if most == 0 || info.control => {
            refuse(Setting::MotionPath, format!("{name} takes no references that could move"))
        }
        Some(paths) if paths > most => {
            refuse(Setting::MotionPath, format!("{name} has at most {most} subjects, not {paths}"))
        }
        _ => Ok(()),
    }
}

/// Checks a shot against the abilities of the model, and its prompt against the policy. `references` are the digests of those that it
/// has from the request.
pub fn check_shot(shot: &Shot, references: &[String], info: &ModelInfo, policy: &Policy) -> Result<()> {
    check_references(&shot.references, shot.motion_path.as_ref(), info)?;
    let continues = shot.transition == Transition::Continue;
    if continues && !info.causal {
        return refuse(
            Setting::Shots,
            format!("{} makes its video in one piece; put a cut between its shots", info.name),
        );
    }
    if continues && shot.image.is_some() {
        return refuse(Setting::Shots, "a shot that starts from an image needs a cut before it".into());
    }
    if shot.image.is_none() && info.needs_image {
        return refuse(Setting::Image, format!("{} starts from an image; set `image`", info.name));
    }
    if shot.image.is_some() && !info.image_to_video {
        return refuse(Setting::Image, format!("{} cannot start from an image", info.name));
    }
    let own: Vec<_> = shot.references.iter().map(Reference::digest).collect();
    check_prompt(&shot.prompt, if own.is_empty() { references } else { &own }, policy)
}

/// Checks a prompt: its text, then the policy. `references` are the digests of what the video shows with it.
pub fn check_prompt(prompt: &str, references: &[String], policy: &Policy) -> Result<()> {
    if prompt.trim().is_empty() {
        return refuse(Setting::Prompt, "the prompt is empty; say what to show".into());
    }
    check_text(prompt)?;
    weighted::parts(prompt).map_err(|reason| Error::Request(Setting::Prompt, reason))?;
    policy.admit_with(prompt, references)
}

/// The negative prompt to use: `prompt`, or the model's own. A `prompt` passes the policy, so that the audit log has every text
/// that the model reads.
pub fn negative_prompt(prompt: Option<&str>, info: &ModelInfo, policy: &Policy) -> Result<String> {
    if let Some(prompt) = prompt.filter(|prompt| !prompt.is_empty()) {
        check_text(prompt)?;
        policy.admit_negative(prompt)?;
    }
    Ok(prompt.unwrap_or(&info.negative_prompt).into())
}

fn check_text(prompt: &str) -> Result<()> {
    if prompt.len() > MAX_PROMPT_BYTES {
        return refuse(
            Setting::Prompt,
            format!("a prompt of {} bytes is too long; use at most {MAX_PROMPT_BYTES}", prompt.len()),
        );
    }
    // A C program would see only the text before it; the model would read all of it.
    if prompt.contains('\0') {
        return refuse(Setting::Prompt, "the prompt contains a NUL character; remove it".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use image::RgbImage;

    use super::*;
    use crate::{Cancel, Model, OpenOptions, Session};

    fn miniature() -> Arc<Model> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/miniature");
        Model::open(folder, &OpenOptions::default(), &Cancel::new()).unwrap()
    }

    #[test]
    fn another_request_has_another_generation_id() {
        let model = miniature();
        let id = |request: Request| {
            ValidatedRequest::new(request, &model.info).unwrap().generation_id(&model.info)
        };
        let request = Request { seed: 1, ..Request::new("a fox") };
        let first = id(request.clone());
        assert_eq!(id(Request { length: Length::Frames(5), ..request.clone() }), first, "the length");
        assert_eq!(id(Request { size: Some(model.info.sizes.default_size()), ..request.clone() }), first);
        for other in [
            Request { prompt: "a fo".into(), ..request.clone() },
            Request { seed: 2, ..request.clone() },
            Request { negative_prompt: Some("rain".into()), ..request.clone() },
            Request { image: Some(RgbImage::new(2, 2)), ..request.clone() },
            Request { steps: Some(2), ..request.clone() },
            Request { guidance_scale: Some(3.5), ..request.clone() },
        ] {
            assert_ne!(id(other.clone()), first, "{other:?}");
        }
    }

    #[test]
    fn the_policy_checks_every_prompt() {
        let model = miniature();
        let policy =
            "name = \"test\"\n[[category]]\nname = \"stones\"\naction = \"block\"\nphrases = [\"quartz\"]";
        let start = |prompt: &str, later: &str| {
            let cut = |start, prompt: &str| Shot {
                transition: Transition::Cut,
                ..Shot::new(Duration::from_secs(start), prompt)
            };
            let policy = Some(Arc::new(Policy::parse(policy).unwrap()));
            let shots = vec![cut(0, prompt), cut(1, later)];
            Session::new(model.clone(), Request { shots, policy, ..Request::default() })
        };
        assert!(matches!(start("a quartz fox", "a fox"), Err(Error::Refused { .. })));
        assert!(matches!(start("a fox", "a quartz fox"), Err(Error::Refused { .. })));
        let mut session = start("a fox", "a bird").unwrap();
        assert!(matches!(session.set_prompt("a fox of qu4rtz"), Err(Error::Refused { .. })));
        assert!(session.set_prompt("a fox of stone").is_ok());
        // The policy does not refuse a negative prompt; an application may.
        assert!(session.set_negative_prompt(Some("quartz")).is_ok());
        assert!(session.set_negative_prompt(None).is_ok());
        let policy = Some(Policy::parse(policy).unwrap().guarded(|prompt| prompt != "quartz"));
        let request = Request { negative_prompt: Some("quartz".into()), policy, ..Request::new("a fox") };
        assert!(matches!(Session::new(model, request), Err(Error::Refused { .. })));
    }
}
