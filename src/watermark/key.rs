//! The key of a watermark.

use std::path::Path;

use crate::{Error, Result};

/// The secret from which the pattern is derived. A watermark is detected only with the key that embedded it.
#[derive(Clone)]
pub struct WatermarkKey([u8; 32]);

/// Minimum length of a key; a shorter one could be guessed.
const MIN_BYTES: usize = 16;
/// Maximum size of a key file; a larger file is probably not a key.
const MAX_BYTES: u64 = 1 << 16;

impl WatermarkKey {
    /// The public key. Everyone can detect its watermarks, which is its purpose.
    pub fn public() -> Self {
        Self::derive(b"public")
    }

    /// A private key from 16 or more bytes, preferably random.
    ///
    /// # Errors
    /// [`Error::Request`] for fewer bytes.
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

    /// Reads the key file `path`; without a path, returns the [public key](WatermarkKey::public).
    ///
    /// # Errors
    /// Those of [`WatermarkKey::read`].
    pub fn open(path: Option<&Path>) -> Result<Self> {
        path.map_or_else(|| Ok(Self::public()), Self::read)
    }

    /// Reads the key file `path`, of any 16 or more bytes.
    ///
    /// # Errors
    /// [`Error::Io`] if reading fails, [`Error::Invalid`] for a file that is too short or too large.
    pub fn read(path: &Path) -> Result<Self> {
        let io = |source| Error::Io { path: path.into(), source };
        let invalid = |reason: String| Error::Invalid { path: path.into(), reason };
        if std::fs::metadata(path).map_err(io)?.len() > MAX_BYTES {
            return Err(invalid(format!(
                "a watermark key has at most {MAX_BYTES} bytes; use a smaller file"
            )));
        }
        let bytes = std::fs::read(path).map_err(io)?;
        Self::from_bytes(&bytes).map_err(|e| invalid(e.to_string()))
    }

    fn derive(bytes: &[u8]) -> Self {
        Self(blake3::derive_key("soragen watermark 1 key", bytes))
    }

    /// Derives bytes for one purpose. They reveal nothing about the key.
    pub(super) fn bytes(&self, purpose: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.0, purpose).as_bytes()
    }
}

/// Hides the key from logs.
impl std::fmt::Debug for WatermarkKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WatermarkKey(…)")
    }
}
