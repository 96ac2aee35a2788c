//! Entries of a cache, as pairs of a name and bytes.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use soragen::{Cache, CacheEntry};

use crate::errors::ForPython;

/// Names and bytes.
pub type Entries<'py> = Vec<(String, Bound<'py, PyBytes>)>;

/// The entries of `cache`, for Python.
pub fn entries<'py>(py: Python<'py>, cache: &Cache) -> PyResult<Entries<'py>> {
    let entries = cache.export().for_python()?;
    Ok(entries.into_iter().map(|entry| (entry.name, PyBytes::new(py, &entry.data))).collect())
}

/// Adds the entries that `Model.make_scene` returned to the cache in `folder`.
#[pyfunction]
#[pyo3(signature = (folder, entries, size = Cache::DEFAULT_SIZE))]
pub fn import_entries(
    py: Python<'_>,
    folder: PathBuf,
    entries: Vec<(String, Vec<u8>)>,
    size: u64,
) -> PyResult<()> {
    let cache = Cache::new(folder, size);
    let import = |(name, data)| cache.import(&CacheEntry { name, data });
    py.detach(|| entries.into_iter().try_for_each(import)).for_python()
}

/// Chunks, prompts and bytes in the cache in `folder`.
#[pyfunction]
pub fn cache_usage(folder: PathBuf) -> PyResult<(u64, u64, u64)> {
    let usage = Cache::new(folder, Cache::DEFAULT_SIZE).usage().for_python()?;
    Ok((usage.chunks, usage.prompts, usage.bytes))
}
