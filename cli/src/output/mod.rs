//! Output files. The file extension selects the writer.

mod partial;
mod png;
mod safetensors;
mod video;

use std::path::Path;

use clap::ValueEnum;
use gstsoraprovenance::Destination;
use soragen::{Cancel, Progress, Session, Size};

use crate::error::{Error, Result};
use crate::signing::Signing;
pub use partial::{PartialFile, remove_partial_files};
pub use video::Codec;
use video::Container;

/// What a writer needs to know before the first frame.
pub struct OutputInfo {
    pub size: Size,
    /// Frames per second, as a fraction.
    pub frame_rate: (u32, u32),
    pub title: String,
    /// Whether the video may have cuts.
    pub cuts: bool,
    pub signing: Option<Signing>,
}

/// A file that takes the frames of a session.
pub enum Output {
    /// Frames as the autoencoder decoded them, for numeric comparisons: without label and watermark.
    Raw(safetensors::Writer),
    /// Frames for people.
    Finished(Box<dyn Writer>),
}

/// Writes frames in order.
///
/// A writer writes to a temporary file, which `finish` renames, or copies to a stream. Dropping an unfinished writer removes
/// that file. Numbered images stay, since each of them is complete. A stream that needs no seeking gets its frames at once.
pub trait Writer {
    /// Writes one frame, RGB of 8 bits `[H, W, 3]`.
    fn write(&mut self, frame: &[u8]) -> Result<()>;

    /// Starts a shot with the next frame. If it begins with a `cut`, the next frame becomes a key frame.
    fn shot(&mut self, _prompt: &str, _cut: bool) {}

    /// Completes the file. Returns whether it exists: without frames, no file is written.
    fn finish(self: Box<Self>) -> Result<bool>;
}

/// A type of output file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Safetensors,
    Png,
    Video(Container, Codec),
}

impl Kind {
    /// The type for the extension of `path`, with `codec` or the default codec of the container. A stream without an
    /// extension, such as `/dev/stdout`, gets the container of the codec.
    ///
    /// # Errors
    /// If the extension or the codec is not supported, or the path is not one to write to.
    pub fn from_path(path: &Path, codec: Option<Codec>) -> Result<Self> {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        let kind = match extension.as_str() {
            "safetensors" => Self::Safetensors,
            "png" => Self::Png,
            other => {
                let container = match Container::from_extension(other) {
                    Some(container) => container,
                    None if matches!(Destination::of(path)?, Destination::Stream(_)) => {
                        Container::of_codec(codec.unwrap_or(Codec::H264))
                    }
                    None => {
                        return Err(Error::Usage(format!(
                            "{}: unknown file type; use .mp4, .mov, .mkv, .webm, .y4m, .png or .safetensors",
                            path.display()
                        )));
                    }
                };
                Self::Video(container, codec.unwrap_or(container.codecs()[0]))
            }
        };
        let codecs: &[Codec] = match kind {
            Self::Video(container, _) => container.codecs(),
            Self::Safetensors | Self::Png => &[],
        };
        if let Some(codec) = codec.filter(|codec| !codecs.contains(codec)) {
            let name = |codec: &Codec| {
                codec.to_possible_value().map_or(String::new(), |value| value.get_name().into())
            };
            let supported: Vec<_> = codecs.iter().map(name).collect();
            let supported = if supported.is_empty() { "no codec".into() } else { supported.join(", ") };
            return Err(Error::Usage(format!(".{extension} supports {supported}, not {}", name(&codec))));
        }
        match kind {
            Self::Png => png::check(path)?,
            Self::Safetensors | Self::Video(..) => drop(Destination::of(path)?),
        }
        Ok(kind)
    }

    /// Whether the container can hold a signed manifest.
    pub fn supports_signing(self) -> bool {
        matches!(self, Self::Video(Container::Mp4 | Container::QuickTime, _))
    }

    pub fn create(self, path: &Path, info: &OutputInfo) -> Result<Output> {
        Ok(match self {
            Self::Safetensors => Output::Raw(safetensors::Writer::new(path, info)?),
            Self::Png => Output::Finished(Box::new(png::Writer::new(path, info)?)),
            Self::Video(container, codec) => {
                Output::Finished(Box::new(video::Writer::new(path, container, codec, info)?))
            }
        })
    }
}

impl Output {
    /// Generates the next chunk of `session` and writes its frames. Returns the frame after them; `None` after the last.
    pub fn write_chunk(
        &mut self,
        session: &mut Session,
        cancel: &Cancel,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Option<u64>> {
        match self {
            Self::Raw(writer) => {
                let Some(frames) = session.next_raw_chunk(cancel, progress)? else { return Ok(None) };
                writer.write(&frames.data);
                Ok(Some(frames.first + frames.len() as u64))
            }
            Self::Finished(writer) => {
                let Some(frames) = session.next_chunk(cancel, progress)? else { return Ok(None) };
                let shot = session.shot();
                if shot.frame == frames.first {
                    writer.shot(&shot.prompt, shot.cut);
                }
                frames.iter().try_for_each(|frame| writer.write(frame))?;
                Ok(Some(frames.first + frames.len() as u64))
            }
        }
    }

    /// Writes a frame that was not generated, RGB of 8 bits `[H, W, 3]`.
    pub fn write_frame(&mut self, frame: &[u8]) -> Result<()> {
        match self {
            Self::Raw(writer) => {
                let samples: Vec<f32> = frame.iter().map(|&sample| f32::from(sample) / 255.0).collect();
                writer.write(&samples);
                Ok(())
            }
            Self::Finished(writer) => writer.write(frame),
        }
    }

    /// See [`Writer::finish`].
    pub fn finish(self) -> Result<bool> {
        match self {
            Self::Raw(writer) => writer.finish(),
            Self::Finished(writer) => writer.finish(),
        }
    }
}
