//! The last latents of a causal scene. A new prompt recomputes the KV cache from them.

use candle_core::Tensor;

use crate::Result;

/// The last latent frames of a scene.
pub struct PastLatents {
    /// `[1, C, T, H, W]`; `None` before the first chunk.
    latents: Option<Tensor>,
    /// Maximum of T.
    max_frames: usize,
}

impl PastLatents {
    pub fn new(max_frames: usize) -> Self {
        Self { latents: None, max_frames }
    }

    /// Appends `chunk`, `[1, C, T, H, W]`, and drops the oldest frames above the maximum.
    pub fn push(&mut self, chunk: &Tensor) -> Result<()> {
        let all = match &self.latents {
            Some(latents) => Tensor::cat(&[latents, chunk], 2)?,
            None => chunk.clone(),
        };
        self.latents = Some(last(&all, self.max_frames)?);
        Ok(())
    }

    /// The last `frames` frames, or all if there are fewer; `None` before the first chunk.
    pub fn last(&self, frames: usize) -> Result<Option<Tensor>> {
        self.latents.as_ref().map(|latents| last(latents, frames)).transpose()
    }
}

fn last(latents: &Tensor, frames: usize) -> Result<Tensor> {
    let all = latents.dim(2)?;
    let count = frames.min(all);
    Ok(latents.narrow(2, all - count, count)?.contiguous()?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_oldest_frames_are_dropped() {
        let chunk = |first: u32| {
            Tensor::arange(first, first + 3, &Device::Cpu).unwrap().reshape((1, 1, 3, 1, 1)).unwrap()
        };
        let mut past = PastLatents::new(4);
        assert!(past.last(2).unwrap().is_none());
        past.push(&chunk(0)).unwrap();
        let last = |past: &PastLatents, frames| -> Vec<u32> {
            past.last(frames).unwrap().unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        assert_eq!(last(&past, 9), [0, 1, 2]);
        past.push(&chunk(3)).unwrap();
        assert_eq!(last(&past, 9), [2, 3, 4, 5]);
        assert_eq!(last(&past, 2), [4, 5]);
    }
}
