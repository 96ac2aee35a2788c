//! All frames as one tensor, for numeric comparisons.

use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};

use super::{OutputInfo, PartialFile};
use crate::error::{Error, Result};

pub struct Writer {
    file: PartialFile,
    height: usize,
    width: usize,
    data: Vec<u8>,
}

impl Writer {
    pub fn new(path: &Path, info: &OutputInfo) -> Result<Self> {
        let (height, width) = (info.size.height as usize, info.size.width as usize);
        Ok(Self { file: PartialFile::new(path)?, height, width, data: Vec::new() })
    }

    /// Adds frames, RGB f32 `[T, H, W, 3]` in \[0, 1\].
    pub fn write(&mut self, frames: &[f32]) {
        self.data.extend(frames.iter().flat_map(|sample| sample.to_le_bytes()));
    }

    /// Writes the file. Returns whether it exists: without frames, no file is written.
    pub fn finish(self) -> Result<bool> {
        let frame_bytes = self.height * self.width * 3 * size_of::<f32>();
        let shape = vec![self.data.len() / frame_bytes, self.height, self.width, 3];
        if shape[0] == 0 {
            return Ok(false);
        }
        let path = self.file.partial();
        let frames = TensorView::new(Dtype::F32, shape, &self.data).map_err(|e| Error::file(path, e))?;
        safetensors::serialize_to_file([("frames", frames)], None, path).map_err(|e| Error::file(path, e))?;
        self.file.keep()?;
        Ok(true)
    }
}
