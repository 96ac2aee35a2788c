//! Classifier-free guidance (<https://arxiv.org/abs/2207.12598>).

use candle_core::{DType, Tensor};

use crate::error::refuse;
use crate::model::Expert;
use crate::{ModelInfo, Result, Setting};

/// The guidance scales of a generation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance {
    /// Scale of the transformer, or of the first of two.
    pub scale: f64,
    /// Scale of the second of two transformers.
    pub scale_2: f64,
}

impl Guidance {
    /// The scales that a request asks for, or the model's own.
    pub fn new(requested: Option<f64>, requested_2: Option<f64>, info: &ModelInfo) -> Result<Self> {
        let scale = requested.unwrap_or(info.guidance_scale);
        let scale_2 = match (requested_2, info.guidance_scale_2) {
            (Some(_), None) => {
                return refuse(
                    Setting::GuidanceScale,
                    format!("{} has one transformer, so guidance-scale-2 has no meaning", info.name),
                );
            }
            // As in diffusers, the first scale applies to both transformers if the second is not set.
            (requested_2, own) => requested_2.or(requested).or(own).unwrap_or(scale),
        };
        for scale in [scale, scale_2] {
            if !scale.is_finite() || scale < 0.0 {
                return refuse(
                    Setting::GuidanceScale,
                    format!(
                        "a guidance scale of {scale} is not possible; use 0 or more (1 or less turns guidance off)"
                    ),
                );
            }
        }
        Ok(Self { scale, scale_2 })
    }

    /// Whether the steps of `expert` use the negative prompt. At a scale of 1 its weight is 0. As in diffusers, a first scale of
    /// at most 1 turns guidance off for both transformers. A scale below 1 would move the video towards the negative prompt, and
    /// the policy relies on this never happening.
    pub fn is_on(&self, expert: Expert) -> bool {
        self.scale > 1.0 && self.of(expert) > 1.0
    }

    fn of(&self, expert: Expert) -> f64 {
        match expert {
            Expert::High => self.scale,
            Expert::Low => self.scale_2,
        }
    }

    /// The guided output, f32, from the outputs for the prompt and for the negative prompt.
    pub fn combine(&self, expert: Expert, prompt: Tensor, negative: Option<Tensor>) -> Result<Tensor> {
        let prompt = prompt.to_dtype(DType::F32)?;
        let Some(negative) = negative.filter(|_| self.is_on(expert)) else { return Ok(prompt) };
        let negative = negative.to_dtype(DType::F32)?;
        Ok((&negative + ((prompt - &negative)? * self.of(expert))?)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn guidance_never_leads_towards_the_negative_prompt() {
        let at = |number: f32| Tensor::new(&[number], &Device::Cpu).unwrap();
        for (scale_2, expected) in [(3.0, 3.0), (1.0, 1.0), (0.5, 1.0), (0.0, 1.0)] {
            let guidance = Guidance { scale: 5.0, scale_2 };
            let combine =
                |expert| guidance.combine(expert, at(1.0), Some(at(0.0))).unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(combine(Expert::Low), [expected], "{scale_2}");
            assert_eq!(combine(Expert::High), [5.0]);
        }
    }
}
