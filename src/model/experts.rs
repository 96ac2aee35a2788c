//! The transformer of a whole-clip model, or its two transformers: one for the high-noise steps, one for the low-noise steps
//! (Wan 2.2 A14B, <https://arxiv.org/abs/2503.20314>, diffusers' `boundary_ratio`).

use std::sync::Arc;

use candle_core::Device;

use crate::cancel::CancellableMutex;
pub(crate) use crate::checkpoint::Expert;
pub(super) use crate::checkpoint::SECOND_TRANSFORMER as SECOND;
use crate::checkpoint::Source;
use crate::transformer::WanTransformer;
use crate::{Cancel, Precision, Result};

/// The folder of the transformer, or of the one for high-noise steps.
pub(super) const FIRST: &str = "transformer";

/// The stem of the weight files.
const WEIGHTS: &str = "diffusion_pytorch_model";

/// One or two transformers, one of them in memory.
pub(crate) struct Experts {
    source: Source,
    precision: Precision,
    offload: bool,
    device: Device,
    /// The lowest timestep of [`Expert::High`], if there are two.
    boundary: Option<f64>,
    /// The transformer in memory: the one that was used last.
    loaded: CancellableMutex<Option<(Expert, Arc<WanTransformer>)>>,
}

impl Experts {
    /// Loads the first transformer. The second, if there is a `boundary`, computes the steps at timesteps below it.
    pub fn open(
        source: &Source,
        boundary: Option<f64>,
        precision: Precision,
        offload: bool,
        device: &Device,
        cancel: &Cancel,
    ) -> Result<Self> {
        if boundary.is_some() {
            // The second transformer is loaded late, but a missing file is reported early.
            let first = WanTransformer::config_of(source, FIRST)?;
            if WanTransformer::config_of(source, SECOND)? != first {
                return Err(source.invalid(SECOND, "its config.json differs from that of `transformer`"));
            }
            source.shapes(SECOND, WEIGHTS)?;
        }
        let first = WanTransformer::open(source, FIRST, precision, offload, device, cancel)?;
        Ok(Self {
            source: source.clone(),
            precision,
            offload,
            device: device.clone(),
            boundary,
            loaded: CancellableMutex::new(Some((Expert::High, Arc::new(first)))),
        })
    }

    /// The transformer for the step at `timestep`.
    pub fn for_timestep(&self, timestep: f64) -> Expert {
        match self.boundary {
            Some(boundary) if timestep < boundary => Expert::Low,
            _ => Expert::High,
        }
    }

    /// The transformer. It is loaded if it is not in memory, after the other one is dropped. A caller that still holds the other
    /// one keeps it in memory.
    ///
    /// # Errors
    /// As [`WanTransformer::open`]; after a cancel no transformer is in memory, and the next call loads it.
    pub fn get(&self, expert: Expert, cancel: &Cancel) -> Result<Arc<WanTransformer>> {
        let mut slot = self.loaded.lock(cancel)?;
        if let Some((_, transformer)) = slot.as_ref().filter(|(which, _)| *which == expert) {
            return Ok(transformer.clone());
        }
        // Free the memory of one before the other is loaded.
        *slot = None;
        let folder = if expert == Expert::Low { SECOND } else { FIRST };
        let Self { source, precision, offload, device, .. } = self;
        let loaded = WanTransformer::open(source, folder, *precision, *offload, device, cancel);
        // candle may return a cancel as another error.
        cancel.check()?;
        let transformer = Arc::new(loaded?);
        *slot = Some((expert, transformer.clone()));
        Ok(transformer)
    }
}

/// What is not applied of the LoRAs of the transformer, or of both transformers.
pub(super) fn lora_notes(source: &Source, two: bool) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for folder in [FIRST, SECOND].into_iter().take(if two { 2 } else { 1 }) {
        notes.extend(source.lora_notes(folder, WEIGHTS)?);
    }
    notes.sort();
    notes.dedup();
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_transformer_is_in_memory_at_a_time() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/experts/t2v");
        let (source, cancel) = (Source::Folder(folder.into()), Cancel::new());
        let experts =
            Experts::open(&source, Some(875.0), Precision::F32, false, &Device::Cpu, &cancel).unwrap();
        assert_eq!([1000.0, 875.0, 874.9, 0.0].map(|t| experts.for_timestep(t)), {
            [Expert::High, Expert::High, Expert::Low, Expert::Low]
        });
        let high = Arc::downgrade(&experts.get(Expert::High, &cancel).unwrap());
        assert!(high.upgrade().is_some());
        let low = Arc::downgrade(&experts.get(Expert::Low, &cancel).unwrap());
        assert!(high.upgrade().is_none() && low.upgrade().is_some());
        drop(experts.get(Expert::High, &cancel).unwrap());
        assert!(low.upgrade().is_none());
    }
}
