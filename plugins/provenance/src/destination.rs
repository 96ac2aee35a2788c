// SPDX-License-Identifier: MPL-2.0

//! Where an output is written: a file, which is replaced when it is complete, or a stream, which is never replaced.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, Seek, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Limit of links to follow, as in Linux.
const MAX_LINKS: usize = 40;

/// Where an output is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A regular file that exists or is created. It is the target of links.
    File(PathBuf),
    /// A FIFO, the null device, or an open file such as `/dev/stdout`.
    Stream(PathBuf),
}

impl Destination {
    /// The destination for the path that a user set. Follows links. Opens nothing.
    ///
    /// # Errors
    /// [`Error::Output`] for a folder, a socket or another device, and if the folder does not exist.
    pub fn of(path: &Path) -> Result<Self> {
        let refused = |reason: &'static str| Error::Output { path: path.into(), reason };
        let mut at = path.to_path_buf();
        for _ in 0..MAX_LINKS {
            let entry = match std::fs::symlink_metadata(&at) {
                Ok(entry) => entry,
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                    let folder = at.parent().filter(|folder| !folder.as_os_str().is_empty());
                    return if at.file_name().is_none() || at.as_os_str().as_encoded_bytes().ends_with(b"/") {
                        Err(refused("this is no name of a file; add one"))
                    } else if folder.is_some_and(|folder| !folder.is_dir()) {
                        Err(refused("no such folder; create it first"))
                    } else {
                        Ok(Self::File(at))
                    };
                }
                Err(e) => return Err(Error::io(path)(e)),
            };
            if !entry.is_symlink() {
                return match kind(&entry) {
                    Kind::File => Ok(Self::File(at)),
                    Kind::Stream => Ok(Self::Stream(at)),
                    Kind::Refused(reason) => Err(refused(reason)),
                };
            }
            if is_open_file(&at) {
                let open = std::fs::metadata(&at).map_err(Error::io(path))?;
                return match kind(&open) {
                    Kind::File | Kind::Stream => Ok(Self::Stream(at)),
                    Kind::Refused(reason) => Err(refused(reason)),
                };
            }
            let target = std::fs::read_link(&at).map_err(Error::io(path))?;
            // An absolute target replaces the folder.
            at = at.parent().unwrap_or(Path::new("")).join(target);
        }
        Err(refused("this is a loop of links; choose another file name"))
    }

    /// Whether nothing can be read back or moved in this destination, as in a pipe.
    pub fn is_fifo(&self) -> bool {
        match self {
            Self::File(_) => false,
            Self::Stream(path) => std::fs::metadata(path).is_ok_and(|entry| is_fifo(&entry)),
        }
    }

    /// Writes all of `from` to a stream. It waits until a FIFO has a reader.
    ///
    /// # Errors
    /// [`Error::Io`], for example if the reader of a pipe has closed it.
    pub fn copy(&self, from: &mut File) -> Result<()> {
        let (Self::Stream(path) | Self::File(path)) = self;
        let mut copied = || {
            from.rewind()?;
            // An open file keeps what was written to it before.
            let mut to = OpenOptions::new().append(true).open(path)?;
            std::io::copy(from, &mut to)?;
            to.flush()
        };
        copied().map_err(Error::io(path))
    }

    /// Renames the complete file `from` to this file.
    ///
    /// # Errors
    /// [`Error::Io`]; and [`Error::Output`] if something else has got this name since [`of`](Self::of).
    pub fn replace(&self, from: &Path) -> Result<()> {
        let (Self::File(path) | Self::Stream(path)) = self;
        match std::fs::symlink_metadata(path) {
            Ok(entry) if !entry.is_file() => Err(Error::Output {
                path: path.clone(),
                reason: "this is no regular file any more, so it was not replaced",
            }),
            _ => std::fs::rename(from, path).map_err(Error::io(path)),
        }
    }
}

enum Kind {
    File,
    Stream,
    Refused(&'static str),
}

fn kind(entry: &Metadata) -> Kind {
    if entry.is_file() {
        Kind::File
    } else if entry.is_dir() {
        Kind::Refused("this is a folder; choose another file name")
    } else if is_fifo(entry) || is_null(entry) {
        Kind::Stream
    } else if is_socket(entry) {
        Kind::Refused("this is a socket; choose a file, a FIFO, /dev/stdout or /dev/null")
    } else {
        Kind::Refused("this is a device; choose a file, a FIFO, /dev/stdout or /dev/null")
    }
}

/// Whether the link is the name of an open file of this process, such as `/proc/self/fd/1`. `/dev/stdout` is a link to one.
fn is_open_file(link: &Path) -> bool {
    let folder = link.parent().and_then(|folder| folder.canonicalize().ok());
    folder.is_some_and(|folder| folder.starts_with("/proc") && folder.ends_with("fd"))
}

#[cfg(unix)]
fn is_fifo(entry: &Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_fifo(&entry.file_type())
}

#[cfg(unix)]
fn is_socket(entry: &Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_socket(&entry.file_type())
}

/// Whether this is the null device, under any name.
#[cfg(unix)]
fn is_null(entry: &Metadata) -> bool {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    let null = std::fs::metadata("/dev/null");
    entry.file_type().is_char_device() && null.is_ok_and(|null| null.rdev() == entry.rdev())
}

#[cfg(not(unix))]
fn is_fifo(_: &Metadata) -> bool {
    false
}

#[cfg(not(unix))]
fn is_socket(_: &Metadata) -> bool {
    false
}

#[cfg(not(unix))]
fn is_null(_: &Metadata) -> bool {
    false
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_to_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("deep")).unwrap();
        symlink("deep/second", path("first")).unwrap();
        symlink("../target", path("deep/second")).unwrap();
        let target = |name: &str| match Destination::of(&path(name)).unwrap() {
            Destination::File(target) => {
                (target.file_name().unwrap().to_owned(), target.parent().unwrap().canonicalize().unwrap())
            }
            other => panic!("{other:?}"),
        };
        let expected = ("target".into(), folder.path().canonicalize().unwrap());
        assert_eq!(target("first"), expected, "the target does not exist yet");
        std::fs::write(path("target"), "old").unwrap();
        assert_eq!(target("first"), expected);
        assert_eq!(target("target"), expected);
        symlink("b", path("a")).unwrap();
        symlink("a", path("b")).unwrap();
        assert!(Destination::of(&path("a")).unwrap_err().to_string().contains("loop"));
        symlink("nowhere/file", path("lost")).unwrap();
        assert!(Destination::of(&path("lost")).unwrap_err().to_string().contains("no such folder"));
    }

    #[test]
    fn only_streams_are_written_through() {
        let folder = tempfile::tempdir().unwrap();
        symlink("/dev/null", folder.path().join("null")).unwrap();
        symlink("/dev/zero", folder.path().join("zero")).unwrap();
        let of = |path: &str| Destination::of(&folder.path().join(path));
        assert!(matches!(of("/dev/null"), Ok(Destination::Stream(_))));
        assert!(matches!(of("null"), Ok(Destination::Stream(_))));
        for path in ["zero", "/dev/full", "/dev/zero", "/dev", "", "/", "/nowhere/file", "new/"] {
            assert!(of(path).is_err(), "{path}");
        }
        // A file that this process has open.
        let mut open = tempfile::tempfile_in(folder.path()).unwrap();
        open.write_all(b"before ").unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&open);
        let mut from = tempfile::tempfile().unwrap();
        from.write_all(b"after").unwrap();
        for link in [format!("/dev/fd/{number}"), format!("/proc/self/fd/{number}")] {
            let stream = of(&link).unwrap();
            assert!(matches!(stream, Destination::Stream(_)), "{link}");
            stream.copy(&mut from).unwrap();
        }
        open.rewind().unwrap();
        assert_eq!(std::io::read_to_string(open).unwrap(), "before afterafter");
    }

    #[test]
    fn what_is_no_file_any_more_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let destination = Destination::of(&path).unwrap();
        let from = folder.path().join("part");
        std::fs::write(&from, "new").unwrap();
        symlink("/dev/full", &path).unwrap();
        assert!(destination.replace(&from).unwrap_err().to_string().contains("not replaced"));
        assert!(path.is_symlink());
        std::fs::remove_file(&path).unwrap();
        destination.replace(&from).unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "new");
    }
}
