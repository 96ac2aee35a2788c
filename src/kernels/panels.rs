//! The packed layout of weights, and the register tile that reads it.
//!
//! All kernels multiply a few rows by the same matrix. A tile keeps its sums, a few rows by up to three vectors of columns,
//! in registers during one pass down the matrix. The matrix is therefore stored in panels of up to three vectors (Goto and
//! van de Geijn, <https://doi.org/10.1145/1356052.1356053>).

use pulp::{Simd, WithSimd};

use super::Arch;

/// A matrix `[rows, columns]` in panels of whole vectors of columns, and a bias for its product.
#[derive(Clone, Debug)]
pub(crate) struct Panels {
    pub(crate) arch: Arch,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    panels: Vec<Panel>,
    /// Panel after panel, `[rows, vectors × lanes]` each, padded with zeros beyond the last column.
    data: Vec<f32>,
    /// One value per column of all panels, including the padding.
    bias: Vec<f32>,
}

/// A range of columns of a matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panel {
    /// The first column.
    pub(crate) first: usize,
    /// Vectors of columns, 1 to 3.
    pub(crate) vectors: usize,
}

impl Panel {
    /// Splits `columns` columns into panels of at most `max` vectors of `lanes`.
    pub(crate) fn cut(columns: usize, lanes: usize, max: usize) -> Vec<Self> {
        let (mut first, mut left) = (0, columns.div_ceil(lanes));
        let mut panels = Vec::new();
        while left > 0 {
            // A panel of one vector is limited by loads, so four vectors become two and two.
            let vectors = if left == 4 { 2 } else { left.min(max) };
            panels.push(Self { first, vectors });
            (first, left) = (first + vectors * lanes, left - vectors);
        }
        panels
    }
}

impl Panels {
    /// Packs the matrix whose elements `weight(row, column)` returns.
    pub(crate) fn new(
        arch: Arch,
        (rows, columns): (usize, usize),
        bias: Option<&[f32]>,
        weight: impl Fn(usize, usize) -> f32,
    ) -> Self {
        let lanes = arch.dispatch(Lanes);
        let padded_columns = columns.next_multiple_of(lanes);
        let mut padded = bias.unwrap_or_default().to_vec();
        padded.resize(padded_columns, 0.0);
        let panels = Panel::cut(columns, lanes, 3);
        let mut data = Vec::with_capacity(padded_columns * rows);
        for &Panel { first, vectors } in &panels {
            for row in 0..rows {
                data.extend(
                    (first..first + vectors * lanes)
                        .map(|column| if column < columns { weight(row, column) } else { 0.0 }),
                );
            }
        }
        Self { arch, rows, columns, panels, data, bias: padded }
    }

    pub(crate) fn panels(&self) -> impl ExactSizeIterator<Item = Panel> + '_ {
        self.panels.iter().copied()
    }

    /// The weights of `panel`, row by row.
    #[inline(always)]
    pub(crate) fn weights<S: Simd>(&self, panel: Panel) -> &[S::f32s] {
        let (first, width) = (panel.first, panel.vectors * S::F32_LANES);
        S::as_simd_f32s(&self.data[first * self.rows..(first + width) * self.rows]).0
    }

    /// The bias of the columns of `panel`.
    #[inline(always)]
    pub(crate) fn bias<S: Simd>(&self, panel: Panel) -> &[S::f32s] {
        S::as_simd_f32s(&self.bias[panel.first..panel.first + panel.vectors * S::F32_LANES]).0
    }
}

/// Returns the number of f32 lanes in a vector.
struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

/// Loads `values`, at most a vector. pulp's partial loads and stores are function calls with AVX2, so that whole vectors
/// avoid them.
#[inline(always)]
pub(crate) fn load<S: Simd>(simd: S, values: &[f32]) -> S::f32s {
    if values.len() == S::F32_LANES { S::as_simd_f32s(values).0[0] } else { simd.partial_load_f32s(values) }
}

/// Stores `value` to `out`, at most a vector.
#[inline(always)]
pub(crate) fn store<S: Simd>(simd: S, out: &mut [f32], value: S::f32s) {
    if out.len() == S::F32_LANES {
        S::as_mut_simd_f32s(out).0[0] = value;
    } else {
        simd.partial_store_f32s(out, value);
    }
}

/// The sums of a tile: `ROWS` rows by `VECTORS` vectors of columns.
pub(crate) type Sums<S, const ROWS: usize, const VECTORS: usize> = [[<S as Simd>::f32s; VECTORS]; ROWS];

/// Adds to `sums` the product of `rows`, `length` values each, and `weights`, `[length, VECTORS]` vectors.
#[inline(always)]
pub(crate) fn accumulate<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    sums: &mut Sums<S, ROWS, VECTORS>,
    rows: &[&[f32]; ROWS],
    length: usize,
    weights: &[S::f32s],
) {
    // Lets the compiler drop the bounds checks in the loop.
    let mut equal = *rows;
    for row in &mut equal {
        *row = &row[..length];
    }
    // Not `as_chunks`: with AVX2 the compiler then loads an input too early and spills a sum, at half the speed.
    let weights = &weights[..length * VECTORS];
    let mut local = *sums;
    for i in 0..length {
        for r in 0..ROWS {
            let x = simd.splat_f32s(equal[r][i]);
            for v in 0..VECTORS {
                local[r][v] = simd.mul_add_e_f32s(x, weights[i * VECTORS + v], local[r][v]);
            }
        }
    }
    *sums = local;
}
