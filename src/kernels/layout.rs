//! Conversion between channels-first and channels-last.

use rayon::prelude::*;

/// Side of the square tiles that are transposed together, so that source and destination stay in the cache.
const SIDE: usize = 32;

/// Transposes consecutive matrices `[rows, columns]`, for example frames `[C, H × W]` to `[H × W, C]` or back.
pub(crate) fn transposed(from: &[f32], (rows, columns): (usize, usize)) -> Vec<f32> {
    let mut to = vec![0.0; from.len()];
    if from.is_empty() {
        return to;
    }
    to.par_chunks_mut(rows * columns).zip(from.par_chunks(rows * columns)).for_each(|(to, from)| {
        to.par_chunks_mut(SIDE * rows).enumerate().for_each(|(band, to)| {
            let first = band * SIDE;
            for top in (0..rows).step_by(SIDE) {
                for row in top..rows.min(top + SIDE) {
                    let from = &from[row * columns + first..(row + 1) * columns];
                    for (to, &x) in to[row..].iter_mut().step_by(rows).zip(from) {
                        *to = x;
                    }
                }
            }
        });
    });
    to
}

#[cfg(test)]
mod tests {
    use super::transposed;

    #[test]
    fn transposing_twice_is_the_identity() {
        for (count, rows, columns) in [(1, 1, 1), (3, 5, 70), (2, 70, 5), (1, 33, 33)] {
            let from: Vec<f32> = (0..count * rows * columns).map(|i| i as f32).collect();
            let to = transposed(&from, (rows, columns));
            for (i, &x) in to.iter().enumerate() {
                let (matrix, column, row) = (i / (rows * columns), i / rows % columns, i % rows);
                assert_eq!(x, from[(matrix * rows + row) * columns + column]);
            }
            assert_eq!(transposed(&to, (columns, rows)), from);
        }
    }
}
