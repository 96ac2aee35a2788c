//! `soragen.Request` as a request of the engine.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use numpy::PyReadonlyArrayDyn;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use soragen::policy::Policy;
use soragen::watermark::WatermarkKey;
use soragen::{Control, Length, ModelInfo, MotionPath, Request, Restyle, Size, Storyboard, Transition};

use crate::arrays::{to_frames, to_latents, to_masks};
use crate::errors::ForPython;
use crate::pictures::{Picture, Subject};

/// The fields of the dataclass.
#[derive(FromPyObject)]
pub struct RequestFields<'py> {
    prompt: String,
    shots: Vec<ShotFields<'py>>,
    blend_chunks: u32,
    negative_prompt: Option<String>,
    image: Option<Picture<'py>>,
    last_image: Option<Picture<'py>>,
    loop_: bool,
    references: Vec<Subject>,
    motion_path: Option<String>,
    size: Option<(u32, u32)>,
    frames: Option<u64>,
    seconds: Option<f64>,
    seed: u64,
    steps: Option<u32>,
    guidance_scale: Option<f64>,
    guidance_scale_2: Option<f64>,
    shift: Option<f64>,
    initial_latents: Option<PyReadonlyArrayDyn<'py, f32>>,
    video: Option<PyReadonlyArrayDyn<'py, u8>>,
    strength: f64,
    motion_noise: f64,
    past: Option<PyReadonlyArrayDyn<'py, u8>>,
    control: Option<PyReadonlyArrayDyn<'py, u8>>,
    mask: Option<PyReadonlyArrayDyn<'py, u8>>,
    control_scale: f64,
    policy: Option<PolicyText>,
    audit_log: Option<PathBuf>,
    label: String,
    watermark: bool,
    watermark_key: Option<PathBuf>,
    watermark_strength: f64,
}

/// A policy: a file, or the bytes of one.
enum PolicyText {
    Text(String),
    File(PathBuf),
}

impl<'py> FromPyObject<'_, 'py> for PolicyText {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match value.cast::<PyBytes>() {
            Ok(bytes) => Ok(Self::Text(String::from_utf8(bytes.as_bytes().to_vec())?)),
            Err(_) => Ok(Self::File(value.extract()?)),
        }
    }
}

/// The fields of `soragen.Shot`.
#[derive(FromPyObject)]
struct ShotFields<'py> {
    start: f64,
    prompt: String,
    seed: Option<u64>,
    image: Option<Picture<'py>>,
    references: Vec<Subject>,
    motion_path: Option<String>,
    cut: bool,
}

impl ShotFields<'_> {
    fn read(&self) -> PyResult<soragen::Shot> {
        let mut shot = soragen::Shot::new(seconds(self.start, "start")?, self.prompt.clone());
        shot.seed = self.seed;
        shot.image = self.image.as_ref().map(Picture::read).transpose()?;
        shot.references = self.references.iter().map(Subject::read).collect::<PyResult<_>>()?;
        shot.motion_path = motion_path(self.motion_path.as_deref())?;
        shot.transition = if self.cut { Transition::Cut } else { Transition::Continue };
        Ok(shot)
    }
}

impl RequestFields<'_> {
    /// The request, and the frames of the video that goes in.
    pub fn read(&self, info: &ModelInfo) -> PyResult<(Request, Vec<image::RgbImage>)> {
        let mut request = Request::new(self.prompt.clone());
        request.shots = self.shots.iter().map(ShotFields::read).collect::<PyResult<_>>()?;
        request.blend_chunks = self.blend_chunks;
        request.negative_prompt = self.negative_prompt.clone();
        request.image = self.image.as_ref().map(Picture::read).transpose()?;
        request.last_image = self.last_image.as_ref().map(Picture::read).transpose()?;
        request.loops = self.loop_;
        request.references = self.references.iter().map(Subject::read).collect::<PyResult<_>>()?;
        request.motion_path = motion_path(self.motion_path.as_deref())?;
        request.length = self.length(info)?;
        request.seed = self.seed;
        request.steps = self.steps;
        request.guidance_scale = self.guidance_scale;
        request.guidance_scale_2 = self.guidance_scale_2;
        request.shift = self.shift;
        request.initial_latents = self.initial_latents.as_ref().map(to_latents).transpose()?;
        let frames =
            |array: &Option<_>, name| array.as_ref().map_or(Ok(Vec::new()), |array| to_frames(array, name));
        let video = frames(&self.video, "video")?;
        request.past = frames(&self.past, "past")?;
        if self.control.is_some() || self.mask.is_some() {
            let mask = self.mask.as_ref().map_or(Ok(Vec::new()), to_masks)?;
            request.control = Some(Control { frames: frames(&self.control, "control")?, mask });
        }
        request.control_scale = self.control_scale;
        let (strength, motion_noise) = (self.strength, self.motion_noise);
        request.restyle = (!video.is_empty()).then_some(Restyle { strength, motion_noise });
        let like = video.first().or(request.past.first()).map(image::RgbImage::dimensions);
        request.size = self.size.map(|(width, height)| Size { width, height });
        request.size = request.size.or(like.map(|(width, height)| info.sizes.like(width, height)));
        request.policy = Some(match &self.policy {
            // Of another machine, which has logged the prompts.
            Some(PolicyText::Text(text)) => Arc::new(Policy::parse(text).map_err(PyValueError::new_err)?),
            Some(PolicyText::File(path)) => {
                Policy::open(Some(path), self.audit_log.as_deref()).for_python()?
            }
            None => Policy::open(None, self.audit_log.as_deref()).for_python()?,
        });
        request.label = self.label.parse().for_python()?;
        let key = WatermarkKey::open(self.watermark_key.as_deref()).for_python()?;
        request.watermark = self.watermark.then_some(key);
        request.watermark_strength = self.watermark_strength;
        Ok((request, video))
    }

    fn length(&self, info: &ModelInfo) -> PyResult<Length> {
        match (self.frames, self.seconds) {
            (Some(_), Some(_)) => {
                Err(PyValueError::new_err("frames and seconds are both given; leave one out"))
            }
            (Some(frames), None) => Ok(Length::Frames(frames)),
            (None, Some(length)) if length.is_infinite() && length > 0.0 => Ok(Length::Endless),
            (None, Some(length)) => Ok(Length::Frames(info.frame_at(seconds(length, "seconds")?).max(1))),
            (None, None) if self.video.is_some() && info.causal && info.max_frames.is_none() => {
                Ok(Length::Endless)
            }
            (None, None) => Ok(Length::Natural),
        }
    }
}

fn motion_path(text: Option<&str>) -> PyResult<Option<MotionPath>> {
    text.map(MotionPath::parse).transpose().for_python()
}

fn seconds(value: f64, name: &str) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value).map_err(|_| {
        PyValueError::new_err(format!("{name} is {value}; it must be a number of seconds from 0"))
    })
}

/// A shot of a storyboard, as the arguments of `soragen.Shot`.
type ShotArguments = (f64, String, Option<u64>, Option<PathBuf>, Vec<String>, Option<String>, bool);

/// Reads a storyboard, a file or its text: the fields of its shots, and its end in seconds.
#[pyfunction]
pub fn read_storyboard(text_or_path: &str) -> PyResult<(Vec<ShotArguments>, Option<f64>)> {
    let board = Storyboard::open(text_or_path).for_python()?;
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.into());
    let shot = |shot: &soragen::Shot<PathBuf, String>| {
        (
            shot.start.as_secs_f64(),
            shot.prompt.clone(),
            shot.seed,
            shot.image.as_deref().map(absolute),
            shot.references.clone(),
            shot.motion_path.as_ref().map(ToString::to_string),
            shot.transition == Transition::Cut,
        )
    };
    Ok((board.shots.iter().map(shot).collect(), board.end.map(|end| end.as_secs_f64())))
}
