//! The invisible mark on what is written.

use std::path::Path;

use soragen::Size;
use soragen::watermark::{Key, Marker, Plane};

use crate::error::Result;
use crate::output::to_u8;

/// The key in `path`, or everyone's.
pub fn key(path: Option<&Path>) -> Result<Key> {
    Ok(path.map_or_else(|| Ok(Key::public()), Key::read)?)
}

/// A frame, RGB f32 `[H, W, 3]`, with the mark: all its samples are whole steps of 8 bits.
pub fn marked(marker: &Marker, frame: &[f32], size: Size) -> Vec<f32> {
    let (width, height) = (size.width as usize, size.height as usize);
    let mut data: Vec<u8> = frame.iter().map(|&sample| to_u8(sample)).collect();
    // The command makes one shot.
    marker.mark(&mut Plane { data: &mut data, stride: 3 * width, step: 3, width, height }, 0);
    data.into_iter().map(|sample| f32::from(sample) / 255.0).collect()
}
