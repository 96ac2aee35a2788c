//! The invisible mark on what is written.

use soragen::Size;
use soragen::watermark::{Marker, Plane};

use crate::output::to_u8;

/// A frame of shot `shot`, RGB f32 `[H, W, 3]`, with the mark: all its samples are whole steps of 8 bits.
pub fn marked(marker: &Marker, frame: &[f32], size: Size, shot: u64) -> Vec<f32> {
    let mut data: Vec<u8> = frame.iter().map(|&sample| to_u8(sample)).collect();
    marker.mark(&mut Plane::rgb(&mut data, size), shot);
    data.into_iter().map(|sample| f32::from(sample) / 255.0).collect()
}
