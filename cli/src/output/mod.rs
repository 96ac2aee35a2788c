//! The files that a video can be written to. Each is told by the end of its name.

mod png;
mod safetensors;
mod video;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use clap::ValueEnum;
use soragen::Size;
use soragen::watermark::GenerationId;

use crate::args::SigningArgs;
use crate::error::{Error, Result};
pub use video::Codec;
use video::Container;

/// What a writer has to know before the first frame.
pub struct About {
    pub size: Size,
    /// Frames a second, as a fraction.
    pub frame_rate: (u32, u32),
    pub title: String,
    /// Whether there may be cuts.
    pub cuts: bool,
    pub signed: Option<Signed>,
}

/// What a file is signed with, and what the signature is put under.
pub struct Signed {
    pub with: SigningArgs,
    pub model: String,
    /// What the frames' invisible mark says.
    pub mark: Option<GenerationId>,
    /// The files of the pictures that it starts from.
    pub images: Vec<String>,
}

/// Takes the frames in order.
///
/// A writer works on a file of another name and gives it its own in `finish`: what is dropped unfinished
/// leaves nothing behind, but for numbered pictures, each of which is whole.
pub trait Writer {
    /// One frame, RGB f32 `[H, W, 3]` in \[0, 1\].
    fn write(&mut self, frame: &[f32]) -> Result<()>;

    /// The next frame is the first of a shot; if it is `cut` off from the last, and frames are made of those before,
    /// one begins anew.
    fn shot(&mut self, _prompt: &str, _cut: bool) {}

    /// Completes the file; says whether there is one, which without any frame there is not.
    fn finish(self: Box<Self>) -> Result<bool>;
}

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Safetensors,
    Png,
    Video(Container, Codec),
}

impl Kind {
    /// By the end of the name, and of what that can hold `codec`. Refuses a name that cannot be written to.
    pub fn of(path: &Path, codec: Option<Codec>) -> Result<Self> {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        let kind = match extension.as_str() {
            "safetensors" => Self::Safetensors,
            "png" => Self::Png,
            other => {
                let container = Container::of(other).ok_or_else(|| {
                    let name = path.display();
                    Error::Usage(format!(
                        "{name}: the name must end in .mp4, .mov, .mkv, .webm, .y4m, .png or .safetensors"
                    ))
                })?;
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
            let can: Vec<_> = codecs.iter().map(name).collect();
            let can = if can.is_empty() { "nothing encoded".into() } else { can.join(", ") };
            return Err(Error::Usage(format!(".{extension} holds {can}, not {}", name(&codec))));
        }
        if kind == Self::Png {
            png::check(path)?;
        }
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty() && !p.is_dir()) {
            return Err(Error::file(folder, "there is no such folder; make it first"));
        }
        if path.is_dir() {
            return Err(Error::file(path, "there is a folder of this name"));
        }
        Ok(kind)
    }

    /// Whether such a file can say, signed, what made it.
    pub fn can_be_signed(self) -> bool {
        matches!(self, Self::Video(Container::Mp4 | Container::QuickTime, _))
    }

    pub fn create(self, path: &Path, about: &About) -> Result<Box<dyn Writer>> {
        Ok(match self {
            Self::Safetensors => Box::new(safetensors::Writer::new(path, about)),
            Self::Png => Box::new(png::Writer::new(path, about)?),
            Self::Video(container, codec) => Box::new(video::Writer::new(path, container, codec, about)?),
        })
    }
}

/// What `PartialFile`s there are.
static PARTIAL: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removes whatever is not finished, before a way out on which nothing is dropped.
pub fn abandon() {
    for partial in PARTIAL.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        let _ = std::fs::remove_file(partial);
    }
}

/// A file under another name until it is whole.
pub struct PartialFile {
    path: PathBuf,
    partial: PathBuf,
    kept: bool,
}

impl PartialFile {
    pub fn new(path: &Path) -> Self {
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}.part", std::process::id()));
        let partial = path.with_file_name(name);
        PARTIAL.lock().unwrap_or_else(PoisonError::into_inner).push(partial.clone());
        Self { path: path.to_path_buf(), partial, kept: false }
    }

    /// Where to write.
    pub fn partial(&self) -> &Path {
        &self.partial
    }

    /// Gives it its name.
    pub fn keep(mut self) -> Result<()> {
        std::fs::rename(&self.partial, &self.path).map_err(|e| Error::file(&self.path, e))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        PARTIAL.lock().unwrap_or_else(PoisonError::into_inner).retain(|partial| *partial != self.partial);
        if !self.kept {
            // It may never have been made.
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}
