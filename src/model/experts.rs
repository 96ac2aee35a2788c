//! The transformer of a model that makes its video in one piece, or the two of which one has the steps with much noise and
//! the other those with little (Wan 2.2 A14B, <https://arxiv.org/abs/2503.20314>, diffusers' `boundary_ratio`).

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Device;

use crate::checkpoint::Source;
use crate::transformer::WanTransformer;
use crate::{Cancel, Precision, Result};

/// The folder of the transformer, or of the one for much noise.
pub(super) const FIRST: &str = "transformer";
/// That of the one for little.
pub(super) use crate::checkpoint::SECOND_TRANSFORMER as SECOND;

/// Which of the transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expert {
    /// For much noise; where there is only one, it.
    High,
    /// For little.
    Low,
}

/// One or two transformers, of which one is in memory.
pub(crate) struct Experts {
    source: Source,
    precision: Precision,
    offload: bool,
    device: Device,
    /// The lowest timestep of [`Expert::High`], if there are two.
    boundary: Option<f64>,
    /// The one that was used last.
    resident: Mutex<Option<(Expert, Arc<WanTransformer>)>>,
}

impl Experts {
    /// Loads the first; `boundary` is the timestep at which the second takes over, if there is one.
    pub fn open(
        source: &Source,
        boundary: Option<f64>,
        precision: Precision,
        offload: bool,
        device: &Device,
    ) -> Result<Self> {
        if boundary.is_some() {
            // It is loaded late, but what is missing is said early.
            let first = WanTransformer::config_of(source, FIRST)?;
            if WanTransformer::config_of(source, SECOND)? != first {
                return Err(source.invalid(SECOND, "the two transformers are not of one form"));
            }
            source.shapes(SECOND, "diffusion_pytorch_model")?;
        }
        let first = WanTransformer::open(source, FIRST, precision, offload, device, &Cancel::new())?;
        Ok(Self {
            source: source.clone(),
            precision,
            offload,
            device: device.clone(),
            boundary,
            resident: Mutex::new(Some((Expert::High, Arc::new(first)))),
        })
    }

    /// Whose step the one at `timestep` is.
    pub fn at(&self, timestep: f64) -> Expert {
        match self.boundary {
            Some(boundary) if timestep < boundary => Expert::Low,
            _ => Expert::High,
        }
    }

    /// The transformer, loaded in the place of the other where that is in memory. Whoever has that still keeps it there.
    pub fn get(&self, expert: Expert) -> Result<Arc<WanTransformer>> {
        let mut resident = self.resident.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, transformer)) = resident.as_ref().filter(|(which, _)| *which == expert) {
            return Ok(transformer.clone());
        }
        // First the one goes, then the other comes.
        *resident = None;
        let folder = if expert == Expert::Low { SECOND } else { FIRST };
        let Self { source, precision, offload, device, .. } = self;
        let transformer = WanTransformer::open(source, folder, *precision, *offload, device, &Cancel::new())?;
        let transformer = Arc::new(transformer);
        *resident = Some((expert, transformer.clone()));
        Ok(transformer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_in_memory_at_a_time() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/experts/t2v");
        let source = Source::Folder(folder.into());
        let experts = Experts::open(&source, Some(875.0), Precision::F32, false, &Device::Cpu).unwrap();
        assert_eq!([1000.0, 875.0, 874.9, 0.0].map(|t| experts.at(t)), {
            [Expert::High, Expert::High, Expert::Low, Expert::Low]
        });
        let high = Arc::downgrade(&experts.get(Expert::High).unwrap());
        assert!(high.upgrade().is_some());
        let low = Arc::downgrade(&experts.get(Expert::Low).unwrap());
        assert!(high.upgrade().is_none() && low.upgrade().is_some());
        drop(experts.get(Expert::High).unwrap());
        assert!(low.upgrade().is_none());
    }
}
