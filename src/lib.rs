//! The engine of soragen: video from text, or from an image and text, by an open diffusion model that runs in-process.
//!
//! A [`Model`] is opened once and shared. A [`Request`] says what to generate. A [`Session`] generates it chunk by chunk, so
//! that the first frames are ready before the last ones are started:
//!
//! ```
//! use soragen::{Cancel, Model, OpenOptions, Request, Session};
//!
//! # fn main() -> soragen::Result<()> {
//! # let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/miniature");
//! let cancel = Cancel::new();
//! let model = Model::open(source, &OpenOptions::default(), &cancel)?;
//! let mut session = Session::new(model, Request::new("a red fox runs over the snow"))?;
//! while let Some(frames) = session.next_chunk(&cancel, &mut |_progress| {})? {
//!     println!("frames {}..{} of {}", frames.first, frames.first + frames.len() as u64, frames.size);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! `source` is a model folder in diffusers layout, a checkpoint file or `hf:owner/name`; a program that calls
//! `soragen_builtin::register()` also has `builtin`. Frames are 8-bit RGB with an invisible watermark, unless
//! [`Request::watermark`] is `None`.
//!
//! Data flows one way: [`Request`] → text encoder → sampler (scheduler × transformer) → autoencoder → [`Frames`]. The session
//! connects these parts; none of them uses the session. The engine does not depend on GStreamer.

pub mod autoencoder;
mod cache;
mod cancel;
pub mod checkpoint;
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "only a GPU launches kernels"))]
mod cuda;
mod device;
mod digest;
mod error;
mod frames;
mod gpu;
pub mod hub;
mod image_encoder;
#[cfg(not(feature = "bench"))]
mod kernels;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod kernels;
pub mod label;
mod model;
mod noise;
mod nv12;
mod ops;
mod picture;
pub mod policy;
mod precision;
pub mod program;
mod reference;
mod request;
pub mod scheduler;
mod session;
pub mod storyboard;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(not(feature = "testing"))]
mod testing;
pub mod text;
mod text_enum;
mod threads;
pub mod transformer;
pub mod watermark;
mod world;
mod yuv;

pub use autoencoder::Decoder;
pub use cache::{Cache, CacheEntry, Usage};
pub use cancel::Cancel;
/// The tensor library of the engine; its types appear in the lower-level modules.
pub use candle_core as candle;
pub use device::parse as open_device;
pub use error::{Error, Result, Setting};
pub use frames::{Frames, RawFrames, to_u8};
pub use gpu::GpuContext;
/// Decoded images: a frame or the start of a video, a mask, and what converts between them.
pub use image::{DynamicImage, GrayImage, RgbImage};
pub use model::{Model, ModelInfo, OpenOptions, PartSize, Sizes, part_sizes, weights_bytes};
pub use nv12::{FrameAddress, Nv12Frame, Nv12Frames, PlaneRows};
pub use picture::{decode_image, read_image, stretch_frame};
pub use precision::Precision;
pub use reference::{Reference, ReferencePicture};
pub use request::{Control, Length, Request, Restyle, Shot, Size, Transition};
pub use session::{ChunkLatents, Phase, Progress, Renderer, Session, SessionStats, ShotInfo};
pub use storyboard::Storyboard;
pub use threads::Threads;
pub use world::MotionPath;
pub use yuv::{ChromaSiting, YuvColours, YuvMatrix};
