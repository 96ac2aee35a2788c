//! What an entry is found by.

/// The digest of everything that decided some latents (<https://github.com/BLAKE3-team/BLAKE3>).
///
/// Keys are chained: a chunk's is made of that of the chunk before and of what is new, so that it stands for the
/// whole video up to there, whatever prompts it went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Key {
    /// The beginning of a chain of one purpose.
    pub fn new(purpose: &str) -> Self {
        Self([0; 32]).with("purpose", purpose.as_bytes())
    }

    /// The beginning of one for what the engine computes: other versions and processors have other numbers.
    pub fn engine() -> Self {
        Self::new(concat!("soragen ", env!("CARGO_PKG_VERSION")))
            .with("on", std::env::consts::ARCH.as_bytes())
    }

    /// The key of this and also of `value`.
    #[must_use]
    pub fn with(&self, name: &str, value: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        for part in [name.as_bytes(), value] {
            // With its length, so that no two lists of parts read the same.
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// Forty bits of it, enough to tell requests apart.
    pub fn first_bytes(&self) -> &[u8] {
        &self.0[..5]
    }

    /// 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::Key;

    #[test]
    fn everything_matters() {
        let key = Key::new("test");
        let keys = [
            key,
            Key::new("tes"),
            key.with("a", b"bc"),
            key.with("ab", b"c"),
            key.with("a", b"b"),
            key.with("a", b"b").with("c", b"d"),
            key.with("c", b"d").with("a", b"b"),
        ];
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[..i].contains(key), "{i}");
        }
        assert_eq!(key.with("a", b"bc"), Key::new("test").with("a", b"bc"));
    }
}
