//! Git LFS pointers (<https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>): a clone without Git LFS has a short text in
//! place of each large file.

use std::fs::File;
use std::io::{ErrorKind, Read, Result};
use std::path::Path;

const START: &[u8] = b"version https://git-lfs.github.com/spec/";

/// What is wrong with a pointer, and what to do.
pub(crate) const REASON: &str = "this is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder, or download \
                                 the model with `soragen models pull`";

/// Whether a file with these first bytes is a pointer.
pub(crate) fn is_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(START)
}

/// Refuses a pointer at `path`.
pub(crate) fn refuse(path: &Path) -> Result<()> {
    let mut start = [0; START.len()];
    match File::open(path)?.read_exact(&mut start) {
        Ok(()) if is_pointer(&start) => Err(std::io::Error::new(ErrorKind::InvalidData, REASON)),
        Err(error) if error.kind() != ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(()),
    }
}
