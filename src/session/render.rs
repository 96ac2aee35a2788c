//! Latents to output frames: the second half of a session, which may run on another thread than the first.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::finish::{Finisher, LabelStart};
use super::latents::{LatentGeometry, refuse_infinite};
use super::tensor_finish::TensorFinisher;
use crate::autoencoder::{DecoderState, Tiling};
use crate::frames::RawFrames;
use crate::testing::Event;
use crate::{Cancel, Frames, Model, Nv12Frames, Result, Size, YuvColours};

/// The latents of a chunk, and what a [`Renderer`] needs to make frames of them.
#[derive(Clone, Debug)]
pub struct ChunkLatents {
    pub(super) part: Part,
    /// Whether a scene begins.
    pub(super) begins_scene: bool,
    /// Sum of the latents, on their device: finite if all of them are. `None` if that is known.
    pub(super) sum: Option<Tensor>,
    /// Number of the first frame in the video.
    pub(super) first: u64,
    /// Frames that the video shows of the chunk.
    pub(super) frames: u64,
    /// Index of the shot.
    pub(super) shot: u64,
    pub(super) label: LabelStart,
}

/// The latents of a chunk, f32 `[1, C, T, h, w]`.
#[derive(Clone, Debug)]
pub(super) enum Part {
    /// These latents, after others whose frames were before the video.
    Stream { before: Vec<Tensor>, latents: Tensor },
    /// The latent frame `frame` of a clip.
    Clip { clip: Tensor, frame: usize },
}

impl ChunkLatents {
    /// Number of the first frame in the video, from 0.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Number of frames.
    pub fn frames(&self) -> u64 {
        self.frames
    }
}

/// Makes the frames of a session from the latents of its chunks: decodes them, converts to 8 bits, adds label and watermark. It may do so on
/// another thread while the session computes the next chunk.
pub struct Renderer {
    model: Arc<Model>,
    size: Size,
    geometry: LatentGeometry,
    finisher: Finisher,
    /// Finishes frames on the device, once there are some to finish there.
    tensor_finisher: Option<TensorFinisher>,
    decoder: DecoderState,
    /// All frames of a clip, `[T, 3, H, W]`, if it is decoded in tiles.
    clip_frames: Option<Tensor>,
    chunks: usize,
}

impl Renderer {
    pub(super) fn new(model: Arc<Model>, size: Size, geometry: LatentGeometry, finisher: Finisher) -> Self {
        let decoder = model.autoencoder.decoder_state();
        Self { model, size, geometry, finisher, tensor_finisher: None, decoder, clip_frames: None, chunks: 0 }
    }

    pub(super) fn finisher(&self) -> &Finisher {
        &self.finisher
    }

    /// The frames of `chunk`: 8 bits per sample, with label and watermark as requested. Takes all chunks of a session, in their order.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::Error::Cancelled) within one layer of the decoder after a cancel;
    /// [`Error::Generation`](crate::Error::Generation) for latents that are not finite. After an error the renderer cannot go on.
    pub fn render(&mut self, chunk: ChunkLatents, cancel: &Cancel) -> Result<Frames> {
        let shot = chunk.shot;
        let raw = self.render_raw(chunk, cancel)?;
        Ok(self.finisher.finish(&raw, shot))
    }

    /// As [`render`](Self::render), but the frames are as the autoencoder decoded them: f32, without label and watermark.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn render_raw(&mut self, chunk: ChunkLatents, cancel: &Cancel) -> Result<RawFrames> {
        let frames = self.frames(&chunk, cancel)?;
        refuse_infinite(chunk.sum.as_ref())?;
        let frames = frames.permute((0, 2, 3, 1))?;
        Ok(RawFrames { first: chunk.first, size: self.size, data: frames.flatten_all()?.to_vec1()? })
    }

    /// As [`render`](Self::render), in NV12, and the frames stay on the device. They are complete when this returns. Each sample of
    /// the RGB that is converted is within one step of that of [`render`](Self::render).
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn render_nv12(
        &mut self,
        chunk: ChunkLatents,
        colours: &YuvColours,
        cancel: &Cancel,
    ) -> Result<Nv12Frames> {
        let frames = self.frames(&chunk, cancel)?;
        let finisher = match &self.tensor_finisher {
            Some(finisher) => finisher,
            None => {
                let finisher = TensorFinisher::new(&self.finisher, self.size, frames.device())?;
                self.tensor_finisher.insert(finisher)
            }
        };
        let frames = finisher.finish(&frames, chunk.first, chunk.shot)?;
        let finished = Nv12Frames::new(&frames, chunk.first, self.size, colours)?;
        match &chunk.sum {
            // Reading it waits for all work before.
            Some(sum) => refuse_infinite(Some(sum))?,
            None => frames.device().synchronize()?,
        }
        Ok(finished)
    }

    /// The decoded frames that the video shows of `chunk`, f32 `[T, 3, H, W]`.
    fn frames(&mut self, chunk: &ChunkLatents, cancel: &Cancel) -> Result<Tensor> {
        if self.finisher.set_label(chunk.label) {
            self.tensor_finisher = None;
        }
        if chunk.begins_scene {
            self.decoder = self.model.autoencoder.decoder_state();
            self.clip_frames = None;
        }
        self.model.test_event(Event::Decode { chunk: self.chunks }, cancel)?;
        self.chunks += 1;
        let frames = match &chunk.part {
            Part::Stream { before, latents } => {
                for before in before {
                    self.decode(before, cancel)?;
                }
                self.decode(latents, cancel)?
            }
            Part::Clip { clip, frame } => self.frame_of_clip(clip, *frame, chunk.begins_scene, cancel)?,
        };
        let count = frames.dim(0)?.min(usize::try_from(chunk.frames).unwrap_or(usize::MAX));
        Ok(frames.narrow(0, 0, count)?.to_dtype(DType::F32)?)
    }

    /// The frames `[T, 3, H, W]` of latents that follow those before.
    fn decode(&mut self, latents: &Tensor, cancel: &Cancel) -> Result<Tensor> {
        let latents = latents.to_dtype(self.model.dtype())?;
        self.model.autoencoder.decode(&latents, &mut self.decoder, cancel)
    }

    fn frame_of_clip(
        &mut self,
        clip: &Tensor,
        frame: usize,
        begins: bool,
        cancel: &Cancel,
    ) -> Result<Tensor> {
        let Model { autoencoder, memory_headroom, .. } = &*self.model;
        if !autoencoder.in_tiles(self.size, *memory_headroom) {
            if begins && frame > 0 {
                // The decoder goes on from the video before.
                self.decode(&clip.narrow(2, 0, frame)?, cancel)?;
            }
            return self.decode(&clip.narrow(2, frame, 1)?, cancel);
        }
        let frames = match &self.clip_frames {
            Some(frames) => frames,
            None => {
                let latents = clip.to_dtype(self.model.dtype())?;
                self.clip_frames.insert(autoencoder.decode_tiled(&latents, &Tiling::default(), cancel)?)
            }
        };
        let before = if frame > 0 { self.geometry.frames_of(0, frame) } else { 0 };
        Ok(frames.narrow(0, before as usize, self.geometry.frames_of(frame, 1) as usize)?)
    }
}
