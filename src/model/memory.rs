//! Memory that the weights of a model need, computed before any is loaded.

use std::collections::HashMap;

use candle_core::Device;

use super::experts::{FIRST, SECOND};
use crate::checkpoint::{Parts, Source, StoredTensor};
use crate::device::TransformerShape;
use crate::image_encoder;
use crate::transformer::WanTransformer;
use crate::{Error, Precision, Result};

/// Size of a part of a model, from the header of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartSize {
    /// Its folder in diffusers' layout.
    pub part: &'static str,
    /// Number of parameters.
    pub parameters: u64,
    /// Whether only one layer at a time is in memory, with any options, as with UMT5.
    pub by_layer: bool,
    /// Parameters outside the layers, which stay in memory.
    rest: Amount,
    /// Parameters of all layers.
    layers: Amount,
    /// Parameters of the largest layer.
    largest: Amount,
}

/// An amount of parameters, by how the file stores them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Amount {
    parameters: u64,
    /// Parameters in quantized blocks of a GGUF file.
    quantized: u64,
    /// Bytes of these blocks in the file.
    bytes: u64,
    /// Parameters in matrices that can stay in the file.
    mapped: u64,
}

const TEXT_ENCODER: &str = "text_encoder";
/// The image encoder is always f32, and one layer of it is in memory at a time.
const IMAGE_ENCODER: (&str, &str) = (image_encoder::FOLDER, image_encoder::STEM);

const STEMS: [(&str, &str); 3] =
    [(FIRST, "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"), (TEXT_ENCODER, "model")];

/// UMT5's token embeddings: only the rows of a prompt are read from the file.
const WORDS: [&str; 2] = ["shared.weight", "encoder.embed_tokens.weight"];

impl Amount {
    fn add(&mut self, stored: &StoredTensor) {
        let count = count(&stored.shape);
        self.parameters = self.parameters.saturating_add(count);
        if stored.quantized {
            self.quantized = self.quantized.saturating_add(count);
            self.bytes = self.bytes.saturating_add(stored.bytes);
        }
        if stored.mappable {
            self.mapped = self.mapped.saturating_add(count);
        }
    }

    /// Bytes of these parameters in a layer that is loaded for one use. A mapped matrix needs none in f32.
    fn temporary_bytes(self, width: u64, device: &Device) -> u64 {
        let all = self.bytes(width, true, device);
        if device.is_cpu() && width == 4 { all - self.mapped.saturating_mul(width).min(all) } else { all }
    }

    /// Bytes of these parameters at `width` bytes each; `as_stored` keeps the blocks of a GGUF file as they are on `device`.
    fn bytes(self, width: u64, as_stored: bool, device: &Device) -> u64 {
        if !as_stored {
            return self.parameters.saturating_mul(width);
        }
        // For a CPU candle keeps a reordered copy of the blocks: 10 bits per parameter for Q6_K, the largest, besides the
        // 6.6 bits in the file.
        let blocks = if device.is_cpu() { self.bytes.saturating_mul(5) / 2 } else { self.bytes };
        (self.parameters - self.quantized).saturating_mul(width).saturating_add(blocks)
    }
}

fn count(shape: &[usize]) -> u64 {
    shape.iter().fold(1, |n, &side| n.saturating_mul(side as u64))
}

impl PartSize {
    /// Bytes of memory for its weights on `device`. `precision` is resolved: never [`Precision::Auto`].
    pub(crate) fn bytes(&self, precision: Precision, offload: bool, device: &Device) -> u64 {
        let width = precision.dtype(device).size_in_bytes() as u64;
        let plain = |amount: Amount| amount.bytes(width, false, device);
        match self.part {
            "vae" => plain(self.rest),
            image_encoder::FOLDER => {
                self.rest.parameters.saturating_add(self.largest.parameters).saturating_mul(4)
            }
            // MiniLM is f32 on every device; UMT5 keeps the blocks of a GGUF file.
            TEXT_ENCODER if !self.by_layer => self.rest.parameters.saturating_mul(4),
            TEXT_ENCODER => plain(self.rest).saturating_add(self.largest.temporary_bytes(width, device)),
            _ => {
                let layers = if offload { self.largest } else { self.layers };
                let (rest, layers) = match precision {
                    Precision::Int8 => (plain(self.rest), layers.parameters),
                    Precision::Gguf => {
                        (self.rest.bytes(width, true, device), layers.bytes(width, true, device))
                    }
                    _ => (plain(self.rest), plain(layers)),
                };
                rest.saturating_add(layers)
            }
        }
    }
}

/// Bytes of memory for the weights of `sizes` on `device`. `precision` is resolved: never [`Precision::Auto`]. One of two
/// transformers is in memory at a time.
pub fn weights_bytes(sizes: &[PartSize], precision: Precision, offload: bool, device: &Device) -> u64 {
    let bytes = |size: &PartSize| size.bytes(precision, offload, device);
    let is_transformer = |size: &&PartSize| size.part == FIRST || size.part == SECOND;
    let transformer = sizes.iter().filter(is_transformer).map(bytes).max().unwrap_or(0);
    sizes.iter().filter(|size| !is_transformer(size)).map(bytes).fold(transformer, u64::saturating_add)
}

/// Sizes of the parts of `source`, with `parts` in place of its own. Reads headers, no weights.
///
/// # Errors
/// As for [`Model::open`](crate::Model::open).
pub fn part_sizes(source: &str, parts: &Parts) -> Result<Vec<PartSize>> {
    of(&Source::parse(source, parts)?)
}

fn of(source: &Source) -> Result<Vec<PartSize>> {
    let mut sizes =
        STEMS.into_iter().map(|(part, stem)| size(source, part, stem)).collect::<Result<Vec<_>>>()?;
    if source.exists(&format!("{SECOND}/config.json")) {
        sizes.push(size(source, SECOND, "diffusion_pytorch_model")?);
    }
    if source.exists(&format!("{}/config.json", image_encoder::FOLDER)) {
        sizes.push(size(source, IMAGE_ENCODER.0, IMAGE_ENCODER.1)?);
    }
    Ok(sizes)
}

fn size(source: &Source, part: &'static str, stem: &str) -> Result<PartSize> {
    let (mut rest, mut layers) = (Amount::default(), HashMap::<&str, Amount>::new());
    let stored = source.stored(part, stem)?;
    for (name, stored) in &stored {
        match layer(name) {
            Some(layer) => layers.entry(layer).or_default().add(stored),
            None if WORDS.contains(&name.as_str()) => {}
            None => rest.add(stored),
        }
    }
    let parameters = stored.values().fold(0_u64, |sum, stored| sum.saturating_add(count(&stored.shape)));
    let largest = layers.values().copied().max_by_key(|layer| layer.parameters).unwrap_or_default();
    let layers = layers.values().fold(Amount::default(), |sum, layer| Amount {
        parameters: sum.parameters.saturating_add(layer.parameters),
        quantized: sum.quantized.saturating_add(layer.quantized),
        bytes: sum.bytes.saturating_add(layer.bytes),
        mapped: sum.mapped.saturating_add(layer.mapped),
    });
    let by_layer = [TEXT_ENCODER, image_encoder::FOLDER].contains(&part) && layers.parameters > 0;
    Ok(PartSize { part, parameters, by_layer, rest, layers, largest })
}

/// `blocks.7` of the transformer's `blocks.7.attn1…`, `encoder.block.7` of UMT5's.
fn layer(name: &str) -> Option<&str> {
    const PREFIXES: [&str; 5] =
        ["encoder.block.", "blocks.", "vace_blocks.", "vision_model.encoder.layers.", "encoder.layers."];
    let rest = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix))?;
    let number = rest.split('.').next()?;
    Some(&name[..name.len() - rest.len() + number.len()])
}

/// The shape of the transformer, which decides the automatic precision. Errors in the file are reported when it is loaded.
pub(super) fn transformer_shape(source: &Source) -> TransformerShape {
    let width = WanTransformer::config_of(source, FIRST).map_or(0, |config| config.inner_dim());
    let quantized =
        size(source, FIRST, STEMS[0].1).is_ok_and(|size| size.rest.quantized + size.layers.quantized > 0);
    TransformerShape { width, quantized }
}

/// Bytes of memory that this machine has besides the weights; `None` for a GPU, whose driver reports a lack of memory only
/// when an allocation fails, and on systems that do not report memory.
///
/// # Errors
/// [`Error::Memory`], with what to change, if the weights do not fit into free memory.
pub(super) fn headroom(
    source: &Source,
    precision: Precision,
    offload: bool,
    device: &Device,
) -> Result<Option<u64>> {
    if !device.is_cpu() {
        return Ok(None);
    }
    let sizes = of(source)?;
    let bytes = |precision, offload| weights_bytes(&sizes, precision, offload, device);
    let needed = bytes(precision, offload);
    // Available without swapping.
    let Some(free) = meminfo("MemAvailable:").filter(|free| needed > *free) else {
        return Ok(meminfo("MemTotal:").map(|all| all.saturating_sub(needed)));
    };
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    let mut less = String::new();
    for (how, precision, offload) in
        [("precision=int8", Precision::Int8, offload), ("offload", precision, true)]
    {
        let other = bytes(precision, offload);
        if other < needed {
            less += &format!("{how} ({:.1} GB), ", gigabytes(other));
        }
    }
    Err(Error::Memory(format!(
        "the weights need {:.1} GB of memory and {:.1} GB are free; use {less}a smaller model, or close other programs",
        gigabytes(needed),
        gigabytes(free)
    )))
}

fn meminfo(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_does_not_fit_into_memory_is_refused() {
        // The file is sparse.
        let folder = tempfile::tempdir().unwrap();
        let original = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/layouts/wan-2.1");
        let (rows, columns) = (1_u64 << 20, 1_u64 << 19);
        let bytes = rows * columns;
        let header = format!(
            r#"{{"blocks.0.attn1.to_q.weight":{{"dtype":"F8_E4M3","shape":[{rows},{columns}],"data_offsets":[0,{bytes}]}}}}"#
        );
        let path = folder.path().join("large.safetensors");
        let mut data = (header.len() as u64).to_le_bytes().to_vec();
        data.extend(header.as_bytes());
        std::fs::write(&path, &data).unwrap();
        std::fs::File::options()
            .append(true)
            .open(&path)
            .unwrap()
            .set_len(data.len() as u64 + bytes)
            .unwrap();
        let parts = Parts { transformer: Some(path), ..Parts::default() };
        let source = Source::parse(original, &parts);
        let refused = source
            .and_then(|source| headroom(&source, Precision::F32, false, &Device::Cpu))
            .unwrap_err()
            .to_string();
        assert!(refused.contains("2199.0 GB") && refused.contains("int8"), "{refused}");
    }
}
