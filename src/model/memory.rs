//! What a model will need, before anything of it is loaded.

use candle_core::Device;

use super::Precision;
use super::experts::SECOND;
use crate::checkpoint::{Parts, Source};
use crate::{Error, Result};

/// A part of a model as its file's header has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartSize {
    /// Its folder in diffusers' layout.
    pub part: &'static str,
    /// How many numbers there are.
    pub parameters: u64,
    /// How many of them are in memory at once: of a text encoder that runs layer by layer, its table of words and its
    /// largest layer; of the second of two transformers, which takes the first's place, what it has more.
    pub resident: u64,
}

const PARTS: [(&str, &str); 3] = [
    ("transformer", "diffusion_pytorch_model"),
    ("vae", "diffusion_pytorch_model"),
    ("text_encoder", "model"),
];

/// The parts of `source` with `parts` in the place of its own. Reads headers, no weights.
///
/// # Errors
/// As for [`Model::open`](crate::Model::open).
pub fn part_sizes(source: &str, parts: &Parts) -> Result<Vec<PartSize>> {
    of(&Source::parse(source, parts)?)
}

pub(super) fn of(source: &Source) -> Result<Vec<PartSize>> {
    let mut sizes =
        PARTS.into_iter().map(|(part, stem)| size(source, part, stem)).collect::<Result<Vec<_>>>()?;
    if source.exists(&format!("{SECOND}/config.json")) {
        // One of the two is in memory at a time: what the second has more than the first.
        let mut second = size(source, SECOND, "diffusion_pytorch_model")?;
        second.resident = second.resident.saturating_sub(sizes[0].resident);
        sizes.push(second);
    }
    Ok(sizes)
}

fn size(source: &Source, part: &'static str, stem: &str) -> Result<PartSize> {
    let mut layers = std::collections::HashMap::<String, u64>::new();
    for (name, shape) in source.shapes(part, stem)? {
        let count = shape.iter().fold(1_u64, |n, &side| n.saturating_mul(side as u64));
        // `encoder.block.7.layer…` is of the layer `encoder.block.7`.
        let layer = name.split_inclusive('.').take(3).collect();
        let sum = layers.entry(layer).or_default();
        *sum = sum.saturating_add(count);
    }
    let parameters = layers.values().fold(0_u64, |sum, n| sum.saturating_add(*n));
    let by_layer = layers.keys().any(|layer| layer.starts_with("encoder.block."));
    let resident = if by_layer { layers.values().max().copied().unwrap_or(0) } else { parameters };
    Ok(PartSize { part, parameters, resident })
}

/// Refuses what does not fit into the memory that is free.
///
/// # Errors
/// [`Error::Memory`], with what to change.
pub(super) fn check(source: &Source, precision: Precision, device: &Device) -> Result<()> {
    // What a GPU has free, its driver says when it is too late only.
    let Some(free) = device.is_cpu().then(available).flatten() else { return Ok(()) };
    let width = |part: &str| match precision {
        Precision::Int8 if part.starts_with("transformer") => 1,
        _ => precision.dtype().size_in_bytes() as u64,
    };
    let needed = of(source)?
        .iter()
        .fold(0_u64, |sum, size| sum.saturating_add(size.resident.saturating_mul(width(size.part))));
    if needed <= free {
        return Ok(());
    }
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    let less = match precision {
        Precision::Int8 => "",
        _ => "precision=int8 (a quarter for the transformer), ",
    };
    Err(Error::Memory(format!(
        "the weights need {:.1} GB of memory and {:.1} GB are free; take {less}a smaller model, or end other programs",
        gigabytes(needed),
        gigabytes(free)
    )))
}

/// Bytes that may be taken without swapping; `None` where the system does not say.
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_model_is_counted() {
        let sizes = part_sizes("builtin", &Parts::default()).unwrap();
        let [transformer, vae, text] = sizes.as_slice() else { panic!("{sizes:?}") };
        assert!((9_000_000..10_000_000).contains(&transformer.parameters), "{transformer:?}");
        assert!((4_000_000..6_000_000).contains(&vae.parameters), "{vae:?}");
        assert!(text.parameters == text.resident && text.parameters > 20_000_000, "{text:?}");
    }

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
        let refused =
            source.and_then(|source| check(&source, Precision::F32, &Device::Cpu)).unwrap_err().to_string();
        assert!(refused.contains("2199.0 GB") && refused.contains("int8"), "{refused}");
    }
}
