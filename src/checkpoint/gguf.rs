//! Weights in a GGUF file, each expanded when it is asked for.

use std::io::{Read, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Result, Shape, Tensor, bail};

/// What a GGUF file is read from.
pub trait Reader: Read + Seek + Send {}

impl<T: Read + Seek + Send> Reader for T {}

/// An opened file.
pub struct Gguf {
    content: Content,
    reader: Mutex<Box<dyn Reader>>,
}

impl Gguf {
    pub fn open(mut reader: impl Reader + 'static) -> Result<Self> {
        // candle divides by the alignment that the file states.
        let content = catch_unwind(AssertUnwindSafe(|| Content::read(&mut reader)));
        let Ok(content) = content else { bail!("the file is damaged") };
        Ok(Self { content: content?, reader: Mutex::new(Box::new(reader)) })
    }

    /// Its tensors with their shapes. Of one with more than four sides, which GGUF does not foresee, some writers keep
    /// all sides and some put them together.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Shape)> {
        self.content.tensor_infos.iter().map(|(name, info)| (name.as_str(), &info.shape))
    }

    /// One of them, f32.
    pub fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        self.content.tensor(&mut *reader, name, device)?.dequantize(device)
    }
}
