//! Digests that cache entries and generations are named by.

/// Goes up when the engine computes other values than before, or describes them in another way: entries of older caches are
/// then not found.
const FORMAT: u32 = 4;

/// A BLAKE3 digest (<https://github.com/BLAKE3-team/BLAKE3>) of named values.
///
/// Digests are chained: the digest of a chunk covers the digest of the chunk before it, so it identifies the whole video up
/// to there, with every prompt on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The first digest of a chain for one purpose.
    pub fn new(purpose: &str) -> Self {
        Self([0; 32]).with("purpose", purpose.as_bytes())
    }

    /// The first digest of a chain for computed values. It covers the version and the format number, since each may change the values.
    /// What else rounds them is the maker's ([`Cache::made_by`](crate::Cache::made_by)).
    pub fn engine() -> Self {
        Self::new(concat!("soragen ", env!("CARGO_PKG_VERSION"))).with("format", &FORMAT.to_le_bytes())
    }

    /// The digest with these digits, as [`hex`](Self::hex) writes them.
    pub fn from_hex(digits: &str) -> Option<Self> {
        blake3::Hash::from_hex(digits).ok().map(|hash| Self(*hash.as_bytes()))
    }

    /// The digest of this one and of `value`, named `name`.
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

    /// The first 40 bits.
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
    use super::Digest;

    #[test]
    fn everything_matters() {
        let key = Digest::new("test");
        let keys = [
            key,
            Digest::new("tes"),
            key.with("a", b"bc"),
            key.with("ab", b"c"),
            key.with("a", b"b"),
            key.with("a", b"b").with("c", b"d"),
            key.with("c", b"d").with("a", b"b"),
        ];
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[..i].contains(key), "{i}");
        }
        assert_eq!(key.with("a", b"bc"), Digest::new("test").with("a", b"bc"));
        assert_eq!(Digest::from_hex(&key.hex()), Some(key));
        assert_eq!(Digest::from_hex("ab"), None);
    }
}
