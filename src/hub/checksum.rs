//! Compares a downloaded file with its etag, which is a digest of the content.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::pull::io;
use crate::{Cancel, Result};

/// Bytes that are read between two checks for a cancel.
const PIECE: usize = 1 << 20;

/// Whether the file at `path` matches `etag`: SHA-256 for a large file
/// (<https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>), the git blob hash for others. An etag of another
/// length comes from a server with another scheme and cannot be compared; it matches.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io); [`Error::Cancelled`](crate::Error::Cancelled).
pub fn matches_etag(path: &Path, etag: &str, cancel: &Cancel) -> Result<bool> {
    match etag.len() {
        64 => has_digest(path, Sha256::new(), etag, cancel),
        40 => {
            let length = path.metadata().map_err(io(path))?.len();
            has_digest(path, Sha1::new_with_prefix(format!("blob {length}\0")), etag, cancel)
        }
        _ => Ok(true),
    }
}

fn has_digest(path: &Path, mut digest: impl Digest, etag: &str, cancel: &Cancel) -> Result<bool> {
    let mut file = File::open(path).map_err(io(path))?;
    let mut piece = vec![0; PIECE];
    loop {
        cancel.check()?;
        match file.read(&mut piece).map_err(io(path))? {
            0 => break,
            count => digest.update(&piece[..count]),
        }
    }
    let hex: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(hex == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_compared_by_its_digest() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "abc").unwrap();
        let matches = |etag: &str| matches_etag(file.path(), etag, &Cancel::new()).unwrap();
        // FIPS 180-2, appendix B.1; `printf abc | git hash-object --stdin`.
        assert!(matches("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
        assert!(matches("f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f"));
        // SHA-1 of the content alone (appendix A.1) is not git's blob hash.
        assert!(!matches("a9993e364706816aba3e25717850c26c9cd0d89d"));
        assert!(!matches(&"0".repeat(64)));
        assert!(matches("900150983cd24fb0d6963f7d28e17f72"), "an etag of another kind");
    }
}
