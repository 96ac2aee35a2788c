//! Weights in a GGUF file, expanded to tensors.

use std::collections::HashMap;
use std::io::{Read, Seek};

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Result, Tensor};

/// Every tensor of the file, dequantised to f32.
pub fn tensors(mut reader: impl Read + Seek, device: &Device) -> Result<HashMap<String, Tensor>> {
    let content = Content::read(&mut reader)?;
    content
        .tensor_infos
        .keys()
        .map(|name| Ok((name.clone(), content.tensor(&mut reader, name, device)?.dequantize(device)?)))
        .collect()
}
