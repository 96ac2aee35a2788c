//! Detail of a frame: fine detail hides a stronger watermark.

use super::embed::{CELL, Plane};

/// Side of the blocks in which detail is measured, in pixels.
pub(super) const BLOCK: usize = CELL / 2;
/// Added to the deviation of a block, in 8-bit steps.
pub(super) const FLOOR: f32 = 0.5;

/// The detail around each whole cell of a frame, in row-major order: the standard deviation of luma in 8-bit steps.
///
/// It is the harmonic mean over the 4×4 blocks in and around the cell. The flattest blocks dominate: the watermark would be
/// seen in the flat part of a cell that an edge crosses.
pub fn detail<const STEP: usize, const USED: usize>(plane: &Plane) -> Vec<f32> {
    let (across, down) = (plane.width / CELL, plane.height / CELL);
    let inverse = inverse_deviations::<STEP, USED>(plane, 2 * across, 2 * down);
    // Sums of the four blocks around each cell, first within each row of blocks.
    let blocks = 2 * across;
    let mut rows = Vec::with_capacity(across * 2 * down);
    for row in inverse.chunks_exact(blocks.max(1)) {
        rows.extend((0..across).map(|cell| around(cell, blocks).map(|block| row[block]).sum::<f32>()));
    }
    let mut detail = Vec::with_capacity(across * down);
    for cell_row in 0..down {
        detail.extend((0..across).map(|cell| {
            let sum: f32 = around(cell_row, 2 * down).map(|row| rows[row * across + cell]).sum();
            (16.0 / sum - FLOOR).max(0.0)
        }));
    }
    detail
}

/// The two blocks of a cell and their neighbours along one axis. The last block of a frame is its own neighbour.
fn around(cell: usize, blocks: usize) -> impl Iterator<Item = usize> {
    let first = 2 * cell;
    [first.saturating_sub(1), first, first + 1, (first + 2).min(blocks - 1)].into_iter()
}

/// The inverse of each block's standard deviation.
fn inverse_deviations<const STEP: usize, const USED: usize>(
    plane: &Plane,
    across: usize,
    down: usize,
) -> Vec<f32> {
    const PIXELS: f32 = (BLOCK * BLOCK) as f32;
    let mut inverse = Vec::with_capacity(across * down);
    let mut sums = vec![(0u32, 0u32); across];
    for (y, row) in plane.data.chunks(plane.stride).take(down * BLOCK).enumerate() {
        let blocks = row[..across * BLOCK * STEP].chunks_exact(BLOCK * STEP);
        for (block, (sum, square)) in blocks.zip(&mut sums) {
            for pixel in block.chunks_exact(STEP) {
                let luma = luma::<USED>(pixel);
                *sum += luma;
                *square += luma * luma;
            }
        }
        if y % BLOCK == BLOCK - 1 {
            inverse.extend(sums.iter_mut().map(|sums| {
                let (sum, square) = std::mem::take(sums);
                let mean = sum as f32 / PIXELS;
                let variance = (square as f32 / PIXELS - mean * mean).max(0.0);
                1.0 / (variance.sqrt() + FLOOR)
            }));
        }
    }
    inverse
}

/// Approximate luma of a pixel, precise enough to measure detail.
fn luma<const USED: usize>(pixel: &[u8]) -> u32 {
    if USED == 1 {
        u32::from(pixel[0])
    } else {
        (u32::from(pixel[0]) + 2 * u32::from(pixel[1]) + u32::from(pixel[2])) / 4
    }
}
