//! Matrices that stay in their memory-mapped file: rows are expanded to f32 while they are multiplied.

use std::fmt;
use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use candle_nn::Linear;

use super::files::WeightFiles;
use super::stored::StoredFormat;
use crate::kernels::expanded::{Rows, multiply};
use crate::kernels::{arch, lock_storage};
use crate::ops;

/// A matrix in a memory-mapped file. Clones share the file.
#[derive(Clone)]
pub struct MappedMatrix {
    pub(super) files: Arc<WeightFiles>,
    /// Name in the files.
    pub(super) name: String,
    /// Rows and columns.
    pub(super) shape: [usize; 2],
    pub(super) format: StoredFormat,
    /// Factors of the values: one for the matrix, or one per row.
    pub(super) scale: Option<Vec<f32>>,
}

impl MappedMatrix {
    /// The linear layer with this weight. `x` is f32 `[.., columns]` and contiguous.
    pub(crate) fn multiply(&self, x: &Tensor) -> Result<Tensor> {
        let [rows, columns] = self.shape;
        debug_assert!(x.is_contiguous(), "strided operand {:?}", x.layout());
        debug_assert!(x.elem_count() > 0, "empty operand");
        if x.dims().last() != Some(&columns) {
            bail!("{:?} times {} of [{rows}, {columns}]", x.shape(), self.name);
        }
        ops::check_count(x.elem_count() / columns, rows)?;
        let Some(view) = self.files.view(&self.name)? else { bail!("{} is not mapped", self.name) };
        let matrix = MappedRows { mapped: self, bytes: view.data(), table: self.format.table()? };
        let Some(arch) = arch(x.dtype(), x.device()) else {
            let mut values = vec![0.0; rows * columns];
            values.chunks_exact_mut(columns).enumerate().for_each(|(row, out)| matrix.expand(row, 0, out));
            return ops::linear(
                &Linear::new(Tensor::from_vec(values, (rows, columns), x.device())?, None),
                x,
            );
        };
        let product = multiply(arch, lock_storage(x).values()?, &matrix);
        let mut shape = x.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = rows;
        }
        Tensor::from_vec(product, shape, x.device())
    }
}

/// The matrix with its bytes in the file.
struct MappedRows<'a> {
    mapped: &'a MappedMatrix,
    bytes: &'a [u8],
    table: Vec<f32>,
}

impl Rows for MappedRows<'_> {
    fn shape(&self) -> [usize; 2] {
        self.mapped.shape
    }

    #[inline(always)]
    fn expand(&self, row: usize, from: usize, out: &mut [f32]) {
        let MappedMatrix { shape: [_, columns], format, scale, .. } = self.mapped;
        let start = (row * columns + from) * format.bytes();
        format.expand(&self.table, &self.bytes[start..start + out.len() * format.bytes()], out);
        if let Some(scale) = scale {
            let scale = scale.get(row).unwrap_or(&scale[0]);
            out.iter_mut().for_each(|x| *x *= scale);
        }
    }
}

impl fmt::Debug for MappedMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedMatrix")
            .field("name", &self.name)
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}
