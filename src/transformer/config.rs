//! `transformer/config.json`.

use serde::Deserialize;

use crate::{Error, Result};

/// The config of a Wan transformer. Names and defaults follow diffusers' `WanTransformer3DModel`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Config {
    /// Latent frames, rows and columns in one token.
    pub patch_size: [usize; 3],
    pub num_attention_heads: usize,
    pub attention_head_dim: usize,
    /// Channels of the input latents.
    pub in_channels: usize,
    /// Channels of the predicted velocity; `in_channels` if absent.
    pub out_channels: Option<usize>,
    /// Width of the text encoder.
    pub text_dim: usize,
    /// Width of the sinusoidal timestep embedding.
    pub freq_dim: usize,
    pub ffn_dim: usize,
    pub num_layers: usize,
    /// Whether the input of cross attention has a layer norm with weights.
    pub cross_attn_norm: bool,
    pub eps: f64,
    /// Number of positions on each axis.
    pub rope_max_seq_len: usize,
    /// Rows and columns of alpha values per latent of a reference picture; `None` for a model without references. A model of
    /// soragen has this, diffusers does not.
    pub reference_alpha: Option<[usize; 2]>,
    /// Whether frames have an overlay with the references at their places. A model of soragen has this, diffusers does not.
    pub reference_overlay: bool,
    /// How many pixels the layer of the picture that each head follows moves per pixel of the camera, for a model that is told where the
    /// camera is; `None` for the others. A model of soragen has this, diffusers does not.
    pub camera_depths: Option<Vec<f64>>,
    /// Width of the image encoder's tokens, for a model whose cross attention reads images too (Wan 2.1's image-to-video models).
    pub image_dim: Option<usize>,
    /// Width of the tokens that the extra keys and values are computed from; set with `image_dim`, and the width of a token.
    pub added_kv_proj_dim: Option<usize>,
    /// Number of the image encoder's tokens for all images together, if each has its own position embedding (FLF2V).
    pub pos_embed_seq_len: Option<usize>,
    /// The blocks to which the control branch adds its output, for VACE (<https://arxiv.org/abs/2503.07598>).
    pub vace_layers: Option<Vec<usize>>,
    /// Channels of the input of the control branch.
    pub vace_in_channels: Option<usize>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            patch_size: [1, 2, 2],
            num_attention_heads: 40,
            attention_head_dim: 128,
            in_channels: 16,
            out_channels: Some(16),
            text_dim: 4096,
            freq_dim: 256,
            ffn_dim: 13824,
            num_layers: 40,
            cross_attn_norm: true,
            eps: 1e-6,
            rope_max_seq_len: 1024,
            reference_alpha: None,
            reference_overlay: false,
            camera_depths: None,
            image_dim: None,
            added_kv_proj_dim: None,
            pos_embed_seq_len: None,
            vace_layers: None,
            vace_in_channels: None,
        }
    }
}

impl Config {
    /// Width of a token.
    pub fn inner_dim(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Channels of the velocity.
    pub fn out_channels(&self) -> usize {
        self.out_channels.filter(|&channels| channels > 0).unwrap_or(self.in_channels)
    }

    /// Latent values of one channel in a patch.
    pub(super) fn patch_area(&self) -> usize {
        self.patch_size[1] * self.patch_size[2]
    }

    /// Alpha values per latent of a reference picture; `None` for a model without references.
    pub fn alpha_channels(&self) -> Option<usize> {
        self.reference_alpha.map(|[rows, columns]| rows.saturating_mul(columns))
    }

    /// Rejects a control branch whose input does not fit to the autoencoder: the video twice, and a mask of the pixels of a latent.
    pub(crate) fn check_control(&self, autoencoder: &crate::autoencoder::Config) -> Result<(), String> {
        let needed = 2 * autoencoder.latent_channels() + autoencoder.spatial_factor().pow(2);
        match self.vace_in_channels {
            Some(channels) if channels != needed => {
                Err(format!("vace_in_channels is {channels}, but the autoencoder requires {needed}"))
            }
            _ => Ok(()),
        }
    }

    /// Rejects invalid sizes and unsupported variants.
    ///
    /// # Errors
    /// [`Error::Request`] names the setting.
    pub fn check(&self) -> Result<()> {
        // Far above any model, and small enough that the product of a few sizes does not overflow.
        const MAX_SIZE: usize = 1 << 20;
        let refuse =
            |reason: String| Err(Error::Request(crate::Setting::Model, format!("transformer: {reason}")));

        let [frames, rows, columns] = self.patch_size;
        let sizes = [
            ("num_attention_heads", self.num_attention_heads),
            ("attention_head_dim", self.attention_head_dim),
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels()),
            ("text_dim", self.text_dim),
            ("freq_dim", self.freq_dim),
            ("ffn_dim", self.ffn_dim),
            ("num_layers", self.num_layers),
            ("rope_max_seq_len", self.rope_max_seq_len),
            ("reference_alpha", self.reference_alpha.map_or(1, |[rows, columns]| rows.min(columns))),
            ("reference_alpha", self.alpha_channels().unwrap_or(1)),
            ("image_dim", self.image_dim.unwrap_or(1)),
            ("pos_embed_seq_len", self.pos_embed_seq_len.unwrap_or(1)),
            ("vace_in_channels", self.vace_in_channels.unwrap_or(1)),
            ("patch_size", rows.min(columns)),
            ("patch_size", rows.max(columns)),
            ("num_attention_heads × attention_head_dim", {
                self.num_attention_heads.saturating_mul(self.attention_head_dim)
            }),
        ];
        for (name, size) in sizes {
            if !(1..=MAX_SIZE).contains(&size) {
                return refuse(format!("{name} is {size}; it must be from 1 to {MAX_SIZE}"));
            }
        }
        match (self.image_dim, self.added_kv_proj_dim) {
            (None, None) if self.pos_embed_seq_len.is_none() => {}
            (Some(_), Some(width)) if width == self.inner_dim() && self.vace_layers.is_none() => {}
            _ => {
                return refuse(format!(
                    "image_dim is {:?}, added_kv_proj_dim {:?} and pos_embed_seq_len {:?}; a model that reads images sets the \
                     first two, the second to {}, and has no vace_layers",
                    self.image_dim,
                    self.added_kv_proj_dim,
                    self.pos_embed_seq_len,
                    self.inner_dim()
                ));
            }
        }
        if let Some(layers) = &self.vace_layers {
            let increases = layers.is_sorted_by(|a, b| a < b);
            if layers.first() != Some(&0) || !increases || layers.last() >= Some(&self.num_layers) {
                return refuse(format!(
                    "vace_layers is {layers:?}; it must begin with 0, increase and stay below {}",
                    self.num_layers
                ));
            }
        }
        if self.vace_layers.is_some() != self.vace_in_channels.is_some() {
            return refuse("vace_layers and vace_in_channels must be set together".into());
        }
        if let Some(depths) = &self.camera_depths
            && (depths.len() != self.num_attention_heads || !depths.iter().all(|depth| depth.abs() <= 8.0))
        {
            return refuse(format!(
                "camera_depths is {depths:?}; it must have a number from -8 to 8 for each of the {} heads",
                self.num_attention_heads
            ));
        }
        if self.reference_overlay && self.reference_alpha.is_none() {
            return refuse("reference_overlay requires reference_alpha".into());
        }
        if frames != 1 {
            return refuse(format!(
                "patch_size is {:?}; only 1 latent frame per token is supported",
                self.patch_size
            ));
        }
        if !self.attention_head_dim.is_multiple_of(2) || !self.freq_dim.is_multiple_of(2) {
            return refuse("attention_head_dim and freq_dim must be even".into());
        }
        if !(self.eps.is_finite() && self.eps > 0.0) {
            return refuse(format!("eps is {}; it must be a positive number", self.eps));
        }
        Ok(())
    }
}
