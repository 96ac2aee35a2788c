//! Video from text, or from an image and text, by an open diffusion model run in-process.
//!
//! A [`Model`] is opened once and shared. A [`Request`] says what to make. A [`Session`] makes it,
//! chunk by chunk, so that the first frames are there before the last are begun:
//!
//! ```no_run
//! use soragen::{Cancel, Model, OpenOptions, Request, Session};
//!
//! # fn main() -> soragen::Result<()> {
//! let model = Model::open("builtin", &OpenOptions::default())?;
//! let request = Request { prompt: "a red fox runs over the snow".into(), ..Default::default() };
//! let mut session = Session::new(model, request)?;
//! let cancel = Cancel::new();
//! while let Some(frames) = session.next_chunk(&cancel, &mut |_progress| {})? {
//!     println!("frames {}..{}", frames.first, frames.first + frames.len() as u64);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Data goes one way: [`Request`] → text encoder → sampler (scheduler × transformer) → autoencoder →
//! [`Frames`]. A folder imports what stands below it in that line, never what stands above. The engine
//! knows nothing of GStreamer.

pub mod autoencoder;
mod cache;
mod cancel;
pub mod checkpoint;
mod device;
mod digest;
mod error;
mod frames;
pub mod hub;
#[cfg(not(feature = "bench"))]
mod kernels;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod kernels;
pub mod label;
mod model;
mod noise;
mod ops;
mod picture;
pub mod policy;
mod precision;
pub mod program;
mod request;
pub mod scheduler;
mod session;
pub mod storyboard;
mod testing;
pub mod text;
mod text_enum;
mod threads;
pub mod transformer;
pub mod watermark;

pub use autoencoder::Decoder;
pub use cache::{Cache, Usage};
pub use cancel::Cancel;
pub use error::{Error, Result, Setting};
pub use frames::{Frames, to_u8};
/// A picture that a video can start from.
pub use image::RgbImage;
pub use model::{Model, ModelInfo, OpenOptions, PartSize, Sizes, part_sizes, weights_bytes};
pub use picture::read_image;
pub use precision::Precision;
pub use request::{Length, Request, Shot, Size, Transition};
pub use session::{Phase, Progress, Session, SessionStats, ShotInfo};
pub use storyboard::Storyboard;
pub use threads::Threads;
