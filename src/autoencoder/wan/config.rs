//! `vae/config.json` of Wan's autoencoders.

use serde::Deserialize;

/// The config of a Wan autoencoder. Names and defaults follow diffusers' `AutoencoderKLWan`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct WanConfig {
    pub base_dim: usize,
    pub decoder_base_dim: Option<usize>,
    pub z_dim: usize,
    pub dim_mult: Vec<usize>,
    pub num_res_blocks: usize,
    pub attn_scales: Vec<f64>,
    pub temperal_downsample: Vec<bool>,
    pub latents_mean: Vec<f64>,
    pub latents_std: Vec<f64>,
    /// Whether it is the residual variant of Wan 2.2.
    pub is_residual: bool,
    pub in_channels: usize,
    pub out_channels: usize,
    pub patch_size: Option<usize>,
    pub scale_factor_temporal: usize,
    pub scale_factor_spatial: usize,
}

impl Default for WanConfig {
    fn default() -> Self {
        Self {
            base_dim: 96,
            decoder_base_dim: None,
            z_dim: 16,
            dim_mult: vec![1, 2, 4, 4],
            num_res_blocks: 2,
            attn_scales: Vec::new(),
            temperal_downsample: vec![false, true, true],
            latents_mean: vec![
                -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517,
                -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
            ],
            latents_std: vec![
                2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652,
                1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
            ],
            is_residual: false,
            in_channels: 3,
            out_channels: 3,
            patch_size: None,
            scale_factor_temporal: 4,
            scale_factor_spatial: 8,
        }
    }
}

impl WanConfig {
    /// Side of the pixel blocks that are folded into channels before the first layer.
    pub fn patch(&self) -> usize {
        self.patch_size.unwrap_or(1)
    }

    /// Rejects invalid sizes and unsupported variants.
    pub(in super::super) fn check(&self) -> Result<(), String> {
        const MAX_WIDTH: usize = 1 << 14;
        let dims = [self.base_dim, self.decoder_base_dim.unwrap_or(self.base_dim), self.z_dim];
        let stages = self.dim_mult.len();
        let channels = 3 * self.patch() * self.patch();
        let checks = [
            (dims.iter().all(|d| (1..=MAX_WIDTH).contains(d)), "a width is 0 or too large"),
            (
                (1..=8).contains(&stages) && self.dim_mult.iter().all(|m| (1..=64).contains(m)),
                "dim_mult needs 1 to 8 entries from 1 to 64",
            ),
            (self.num_res_blocks <= 16, "num_res_blocks is too large"),
            (self.num_res_blocks > 0, "num_res_blocks is 0"),
            (self.attn_scales.is_empty(), "attn_scales are not supported"),
            (
                self.temperal_downsample.len() + 1 == stages,
                "temperal_downsample needs one entry less than dim_mult",
            ),
            (self.latents_mean.len() == self.z_dim, "latents_mean needs z_dim values"),
            (self.latents_std.len() == self.z_dim, "latents_std needs z_dim values"),
            (
                self.latents_std.iter().all(|s| s.is_finite() && *s != 0.0),
                "latents_std has a zero or infinite value",
            ),
            ((1..=8).contains(&self.patch()), "patch_size must be from 1 to 8"),
            (
                self.in_channels == channels && self.out_channels == channels,
                "in_channels and out_channels must be 3 × patch_size²",
            ),
        ];
        if let Some((_, reason)) = checks.iter().find(|(valid, _)| !valid) {
            return Err((*reason).into());
        }
        if self.scale_factor_spatial != self.patch() << (stages - 1) {
            return Err("scale_factor_spatial does not match dim_mult and patch_size".into());
        }
        let halvings = self.temperal_downsample.iter().filter(|&&t| t).count();
        if self.scale_factor_temporal != 1 << halvings {
            return Err("scale_factor_temporal does not match temperal_downsample".into());
        }
        if self.is_residual && !self.shortcuts_divide() {
            return Err(
                "dim_mult does not allow shortcuts: the channels of a stage must divide those of the next"
                    .into(),
            );
        }
        Ok(())
    }

    /// Whether the shortcuts of the residual variant can group channels when downsampling and repeat them when upsampling.
    fn shortcuts_divide(&self) -> bool {
        let mults = &self.dim_mult;
        let factor = |temporal: &bool| if *temporal { 8 } else { 4 };
        let downs = self.temperal_downsample.iter().map(factor).chain([1]);
        let befores = [1].iter().chain(mults);
        let down = mults
            .iter()
            .zip(befores)
            .zip(downs)
            .all(|((n, before), factor)| (before * factor).is_multiple_of(*n));
        let ups = self.temperal_downsample.iter().map(factor).rev();
        let befores = mults.last().into_iter().chain(mults.iter().rev());
        let mut up = mults.iter().rev().zip(befores).zip(ups);
        down && up.all(|((n, before), factor)| (n * factor).is_multiple_of(*before))
    }
}
