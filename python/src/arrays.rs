//! NumPy arrays of frames and latents.

use candle_core::{DType, Device, Tensor};
use image::{GrayImage, RgbImage};
use numpy::{IntoPyArray, PyArray4, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use soragen::Frames;

use crate::errors::ForPython;

/// `uint8` `[T, H, W, 3]`.
pub fn from_frames<'py>(py: Python<'py>, frames: Frames) -> PyResult<Bound<'py, PyArray4<u8>>> {
    let (count, size) = (frames.len(), frames.size);
    let shape = [count, size.height as usize, size.width as usize, 3];
    frames.data.into_pyarray(py).reshape(shape)
}

/// `float32` `[C, T, h, w]` of latents `[1, C, T, h, w]`.
pub fn from_latents<'py>(py: Python<'py>, latents: &Tensor) -> PyResult<Bound<'py, PyArray4<f32>>> {
    let values = || -> soragen::Result<_> {
        let (_, channels, frames, height, width) = latents.dims5()?;
        let values =
            latents.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
        Ok((values, [channels, frames, height, width]))
    };
    let (values, shape) = values().for_python()?;
    values.into_pyarray(py).reshape(shape)
}

/// Latents `[1, C, T, h, w]` of `[C, T, h, w]`.
pub fn to_latents(array: &PyReadonlyArrayDyn<'_, f32>) -> PyResult<Tensor> {
    let [channels, frames, height, width] = *array.shape() else {
        return Err(PyValueError::new_err("initial_latents must be float32 [C, T, h, w]"));
    };
    let values = array.as_array().iter().copied().collect::<Vec<_>>();
    let latents = Tensor::from_vec(values, (1, channels, frames, height, width), &Device::Cpu);
    latents.map_err(soragen::Error::from).for_python()
}

/// Frames of `uint8` `[T, H, W, 3]`; `name` is that of the argument.
pub fn to_frames(array: &PyReadonlyArrayDyn<'_, u8>, name: &str) -> PyResult<Vec<RgbImage>> {
    let [_, height, width, 3] = *array.shape() else {
        return Err(PyValueError::new_err(format!("{name} must be uint8 [T, H, W, 3]")));
    };
    let samples = array.as_array().iter().copied().collect::<Vec<_>>();
    let frame = |samples: &[u8]| RgbImage::from_raw(width as u32, height as u32, samples.to_vec());
    Ok(samples.chunks_exact((3 * height * width).max(1)).filter_map(frame).collect())
}

/// Masks of `uint8` `[T, H, W]`.
pub fn to_masks(array: &PyReadonlyArrayDyn<'_, u8>) -> PyResult<Vec<GrayImage>> {
    let [_, height, width] = *array.shape() else {
        return Err(PyValueError::new_err("mask must be uint8 [T, H, W]"));
    };
    let samples = array.as_array().iter().copied().collect::<Vec<_>>();
    let mask = |samples: &[u8]| GrayImage::from_raw(width as u32, height as u32, samples.to_vec());
    Ok(samples.chunks_exact((height * width).max(1)).filter_map(mask).collect())
}
