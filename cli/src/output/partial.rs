//! Files with a temporary name until they are complete.

use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use gstsoraprovenance::Destination;

use crate::error::{Error, Result};

/// Paths of all unfinished files, and of folders of temporary files.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removes all unfinished files, before the process exits without running destructors.
pub fn remove_partial_files() {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(|path| remove(&path));
}

/// Removes a file or a folder. It may not exist yet.
fn remove(path: &Path) {
    if std::fs::remove_file(path).is_err() {
        let _ = std::fs::remove_dir_all(path);
    }
}

/// An output. A file has a temporary name beside it until it is complete. What a stream gets is written to a temporary file
/// and then copied, unless it is written directly.
pub struct PartialFile {
    destination: Destination,
    partial: PathBuf,
    /// What is removed if the file is not kept: the file, or its folder.
    rest: Option<PathBuf>,
}

impl PartialFile {
    /// An output whose format may need seeking.
    ///
    /// # Errors
    /// See [`Destination::of`].
    pub fn new(path: &Path) -> Result<Self> {
        let destination = Destination::of(path)?;
        let (partial, rest) = match &destination {
            Destination::File(path) => {
                let mut name = path.file_name().unwrap_or_default().to_os_string();
                name.push(format!(".{}.part", std::process::id()));
                let partial = path.with_file_name(name);
                (partial.clone(), partial)
            }
            Destination::Stream(_) => {
                let folder = private_folder()?;
                // The extension tells libraries the format.
                let name = path
                    .extension()
                    .map_or("out".into(), |extension| Path::new("out").with_extension(extension));
                (folder.join(name), folder)
            }
        };
        UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).push(rest.clone());
        Ok(Self { destination, partial, rest: Some(rest) })
    }

    /// An output that is written from start to end. A stream is written directly; the writer must append to it.
    ///
    /// # Errors
    /// See [`Destination::of`].
    pub fn sequential(path: &Path) -> Result<Self> {
        match Destination::of(path)? {
            Destination::File(_) => Self::new(path),
            Destination::Stream(partial) => {
                Ok(Self { destination: Destination::Stream(partial.clone()), partial, rest: None })
            }
        }
    }

    /// The path to write to.
    pub fn partial(&self) -> &Path {
        &self.partial
    }

    /// Whether [`partial`](Self::partial) is the stream itself.
    pub fn is_direct(&self) -> bool {
        self.rest.is_none()
    }

    /// Gives the complete file its name, or copies it to the stream.
    pub fn keep(mut self) -> Result<()> {
        match &self.destination {
            Destination::File(_) => {
                self.destination.replace(&self.partial)?;
                self.forget();
                self.rest = None;
            }
            Destination::Stream(_) if !self.is_direct() => {
                let mut from = File::open(&self.partial).map_err(|e| Error::file(&self.partial, e))?;
                self.destination.copy(&mut from)?;
            }
            Destination::Stream(_) => {}
        }
        Ok(())
    }

    fn forget(&self) {
        UNFINISHED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|path| Some(path) != self.rest.as_ref());
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        self.forget();
        if let Some(rest) = &self.rest {
            remove(rest);
        }
    }
}

/// A new folder for temporary files that no other user can write to.
fn private_folder() -> Result<PathBuf> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    let mut number = 0u32;
    loop {
        let folder = std::env::temp_dir().join(format!("soragen-{}-{number}", std::process::id()));
        match builder.create(&folder) {
            Ok(()) => return Ok(folder),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(e) => return Err(Error::file(folder, e)),
        }
    }
}
