//! `soragen cache`.

use soragen::{Cache, Usage};

use crate::error::{Error, Result};

pub fn list(folder: Option<&str>) -> Result<()> {
    let cache = open(folder)?;
    print_line!("{}: {}", cache.folder().display(), count(cache.usage()?))?;
    Ok(())
}

pub fn clear(folder: Option<&str>) -> Result<()> {
    let cache = open(folder)?;
    print_line!("{}: removed {}", cache.folder().display(), count(cache.clear()?))?;
    Ok(())
}

fn open(folder: Option<&str>) -> Result<Cache> {
    Cache::open(folder, Cache::DEFAULT_SIZE)
        .ok_or_else(|| Error::Usage("the cache is disabled; set its folder with --cache-dir".into()))
}

fn count(Usage { chunks, prompts, bytes }: Usage) -> String {
    format!("{chunks} chunks, {prompts} prompts, {:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
