//! Who can find a mark.

use std::path::Path;

use crate::{Error, Result};

/// The secret that a pattern is made of. Marks of one key are not seen with another.
#[derive(Clone)]
pub struct WatermarkKey([u8; 32]);

/// The shortest key file: less could be guessed.
const MIN_BYTES: usize = 16;
/// No key is longer; another file was meant.
const MAX_BYTES: u64 = 1 << 16;

impl WatermarkKey {
    /// The key that everyone has. What it marks, everyone can find; that is its purpose.
    pub fn public() -> Self {
        Self::derive(b"public")
    }

    /// A key of one's own: any bytes, 16 or more, preferably random.
    ///
    /// # Errors
    /// [`Error::Request`] if there are fewer.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < MIN_BYTES {
            return Err(Error::Request(
                crate::Setting::WatermarkKey,
                format!(
                    "a watermark key of {} bytes could be guessed; use {MIN_BYTES} random bytes or more",
                    bytes.len()
                ),
            ));
        }
        Ok(Self::derive(bytes))
    }

    /// The key in the file `path`, or [the public one](WatermarkKey::public).
    ///
    /// # Errors
    /// Those of [`WatermarkKey::read`].
    pub fn open(path: Option<&Path>) -> Result<Self> {
        path.map_or_else(|| Ok(Self::public()), Self::read)
    }

    /// [`WatermarkKey::from_bytes`] of a file.
    ///
    /// # Errors
    /// The file's, and those of [`WatermarkKey::from_bytes`].
    pub fn read(path: &Path) -> Result<Self> {
        let io = |source| Error::Io { path: path.into(), source };
        let invalid = |reason: String| Error::Invalid { path: path.into(), reason };
        if std::fs::metadata(path).map_err(io)?.len() > MAX_BYTES {
            return Err(invalid(format!("a watermark key has at most {MAX_BYTES} bytes")));
        }
        let bytes = std::fs::read(path).map_err(io)?;
        Self::from_bytes(&bytes).map_err(|e| invalid(e.to_string()))
    }

    fn derive(bytes: &[u8]) -> Self {
        Self(blake3::derive_key("soragen watermark 1 key", bytes))
    }

    /// Bytes for one purpose, which tell nothing of the key.
    pub(super) fn bytes(&self, purpose: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.0, purpose).as_bytes()
    }
}

/// Keys are not for logs.
impl std::fmt::Debug for WatermarkKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WatermarkKey(…)")
    }
}
