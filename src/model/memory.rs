//! What a model will need, before anything of it is loaded.

use std::collections::HashMap;

use candle_core::Device;

use super::experts::{FIRST, SECOND};
use crate::checkpoint::{Parts, Source, StoredTensor};
use crate::device::Form;
use crate::transformer::WanTransformer;
use crate::{Error, Precision, Result};

/// A part of a model as its file's header has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartSize {
    /// Its folder in diffusers' layout.
    pub part: &'static str,
    /// How many numbers there are.
    pub parameters: u64,
    /// Whether one layer at a time is in memory however the model is opened, as of UMT5.
    pub by_layer: bool,
    /// What is in no layer, and is in memory.
    rest: Amount,
    /// All layers.
    layers: Amount,
    /// The largest of them.
    largest: Amount,
}

/// So many numbers, and how a file has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Amount {
    numbers: u64,
    /// How many of them are in blocks of a GGUF file.
    quantised: u64,
    /// What these blocks take there.
    bytes: u64,
    /// How many of them are in matrices that can stay in the file.
    mapped: u64,
}

const TEXT_ENCODER: &str = "text_encoder";
const STEMS: [(&str, &str); 3] =
    [(FIRST, "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"), (TEXT_ENCODER, "model")];

/// UMT5's table of words, which stays in its file but for the rows of a prompt.
const WORDS: [&str; 2] = ["shared.weight", "encoder.embed_tokens.weight"];

impl Amount {
    fn add(&mut self, stored: &StoredTensor) {
        let count = count(&stored.shape);
        self.numbers = self.numbers.saturating_add(count);
        if stored.quantized {
            self.quantised = self.quantised.saturating_add(count);
            self.bytes = self.bytes.saturating_add(stored.bytes);
        }
        if stored.mappable {
            self.mapped = self.mapped.saturating_add(count);
        }
    }

    /// Bytes of these as a layer that is used once and let go.
    fn passing_bytes(self, width: u64, device: &Device) -> u64 {
        let all = self.bytes(width, true, device);
        // In f32 on a CPU.
        if device.is_cpu() && width == 4 { all - self.mapped.saturating_mul(width).min(all) } else { all }
    }

    /// Bytes of these as numbers of `width` bytes, or, `as_stored`, of what is in blocks as these on `device`.
    fn bytes(self, width: u64, as_stored: bool, device: &Device) -> u64 {
        if !as_stored {
            return self.numbers.saturating_mul(width);
        }
        // For a CPU candle keeps a copy of the blocks in another order: of Q6_K, the largest, 10 bits a number beside the
        // 6.6 in the file.
        let blocks = if device.is_cpu() { self.bytes.saturating_mul(5) / 2 } else { self.bytes };
        (self.numbers - self.quantised).saturating_mul(width).saturating_add(blocks)
    }
}

fn count(shape: &[usize]) -> u64 {
    shape.iter().fold(1, |n, &side| n.saturating_mul(side as u64))
}

impl PartSize {
    /// Bytes of memory that its weights take on `device` when the model is opened so. `precision` is not
    /// [`Precision::Auto`], which stands for one of the others.
    pub(crate) fn bytes(&self, precision: Precision, offload: bool, device: &Device) -> u64 {
        let width = precision.dtype(device).size_in_bytes() as u64;
        let plain = |amount: Amount| amount.bytes(width, false, device);
        match self.part {
            "vae" => plain(self.rest),
            // MiniLM is f32 on every device; UMT5 is computed with as a GGUF has it.
            TEXT_ENCODER if !self.by_layer => self.rest.numbers.saturating_mul(4),
            TEXT_ENCODER => plain(self.rest).saturating_add(self.largest.passing_bytes(width, device)),
            _ => {
                let layers = if offload { self.largest } else { self.layers };
                let (rest, layers) = match precision {
                    Precision::Int8 => (plain(self.rest), layers.numbers),
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

/// Bytes of memory that the weights of `sizes` take on `device` when the model is opened so; `precision` is not
/// [`Precision::Auto`]. Of two transformers one is in memory at a time.
pub fn weights_bytes(sizes: &[PartSize], precision: Precision, offload: bool, device: &Device) -> u64 {
    let bytes = |size: &PartSize| size.bytes(precision, offload, device);
    let is_transformer = |size: &&PartSize| size.part == FIRST || size.part == SECOND;
    let transformer = sizes.iter().filter(is_transformer).map(bytes).max().unwrap_or(0);
    sizes.iter().filter(|size| !is_transformer(size)).map(bytes).fold(transformer, u64::saturating_add)
}

/// The parts of `source` with `parts` in the place of its own. Reads headers, no weights.
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
    let largest = layers.values().copied().max_by_key(|layer| layer.numbers).unwrap_or_default();
    let layers = layers.values().fold(Amount::default(), |sum, layer| Amount {
        numbers: sum.numbers.saturating_add(layer.numbers),
        quantised: sum.quantised.saturating_add(layer.quantised),
        bytes: sum.bytes.saturating_add(layer.bytes),
        mapped: sum.mapped.saturating_add(layer.mapped),
    });
    let by_layer = part == TEXT_ENCODER && layers.numbers > 0;
    Ok(PartSize { part, parameters, by_layer, rest, layers, largest })
}

/// `blocks.7` of the transformer's `blocks.7.attn1…`, `encoder.block.7` of UMT5's.
fn layer(name: &str) -> Option<&str> {
    let rest = name.strip_prefix("encoder.block.").or_else(|| name.strip_prefix("blocks."))?;
    let number = rest.split('.').next()?;
    Some(&name[..name.len() - rest.len() + number.len()])
}

/// What of the transformer decides in which numbers it computes best. What is wrong with it is said when it is loaded.
pub(super) fn form(source: &Source) -> Form {
    let width = WanTransformer::config_of(source, FIRST).map_or(0, |config| config.inner_dim());
    let blocks =
        size(source, FIRST, STEMS[0].1).is_ok_and(|size| size.rest.quantised + size.layers.quantised > 0);
    Form { width, blocks }
}

/// Bytes of this machine's memory that the weights leave; `None` for a GPU, and where the system does not say. What a GPU has
/// free, its driver says when it is too late only.
///
/// # Errors
/// [`Error::Memory`], with what to change, if they do not fit into the memory that is free.
pub(super) fn room(
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
    // What may be taken without swapping.
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
        "the weights need {:.1} GB of memory and {:.1} GB are free; take {less}a smaller model, or end other programs",
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
    fn a_model_that_does_not_fit_is_refused_with_what_to_do() {
        // A header may promise anything: the file is sparse.
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
            .and_then(|source| room(&source, Precision::F32, false, &Device::Cpu))
            .unwrap_err()
            .to_string();
        assert!(refused.contains("2199.0 GB") && refused.contains("int8"), "{refused}");
    }
}
