//! Local activity of a frame: a busy area hides a stronger watermark.

/// Mean and variance of luma over the 3×3 cells around each cell, in 8-bit steps, in row-major order.
///
/// `sums` and `squares` are the sums of luma and its square over `pixels` pixels of each cell, with `across` cells per row.
pub fn around_cells(sums: &[u32], squares: &[u32], pixels: usize, across: usize) -> Vec<(f32, f32)> {
    let sums = around(sums, across);
    let squares = around(squares, across);
    sums.into_iter()
        .zip(squares)
        .map(|((sum, cells), (square, _))| {
            let n = (cells as usize * pixels) as f32;
            let mean = sum as f32 / n;
            (mean, (square as f32 / n - mean * mean).max(0.0))
        })
        .collect()
}

/// The sum over the 3×3 cells around each cell, and their number.
fn around(values: &[u32], across: usize) -> Vec<(u32, u32)> {
    let rows = values.len() / across.max(1);
    let mut horizontal = Vec::with_capacity(values.len());
    for row in values.chunks_exact(across.max(1)) {
        horizontal.extend((0..across).map(|x| {
            let near = &row[x.saturating_sub(1)..(x + 2).min(across)];
            (near.iter().sum::<u32>(), near.len() as u32)
        }));
    }
    let mut out = Vec::with_capacity(values.len());
    for y in 0..rows {
        let near = y.saturating_sub(1)..(y + 2).min(rows);
        for x in 0..across {
            out.push(near.clone().fold((0, 0), |(sum, count), y| {
                let (s, c) = horizontal[y * across + x];
                (sum + s, count + c)
            }));
        }
    }
    out
}
