//! What is kept of videos made before.

use std::path::PathBuf;

use soragen::{Cache, Usage};

use crate::error::{Error, Result};

/// The cache in `folder`: the user's own if that is not given, none if it is empty.
pub fn of(folder: Option<&str>) -> Option<Cache> {
    let folder = match folder {
        None => Cache::default_folder(),
        Some("") => None,
        Some(folder) => Some(PathBuf::from(folder)),
    };
    folder.map(|folder| Cache::new(folder, Cache::DEFAULT_SIZE))
}

pub fn list(folder: Option<&str>) -> Result<()> {
    let cache = named(folder)?;
    println!("{}: {}", cache.folder().display(), count(cache.usage()?));
    Ok(())
}

pub fn clear(folder: Option<&str>) -> Result<()> {
    let cache = named(folder)?;
    println!("{}: removed {}", cache.folder().display(), count(cache.clear()?));
    Ok(())
}

fn named(folder: Option<&str>) -> Result<Cache> {
    of(folder).ok_or_else(|| Error::Usage("there is no cache; name one with --cache-dir".into()))
}

fn count(Usage { entries, bytes }: Usage) -> String {
    format!("{entries} chunks, {:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
