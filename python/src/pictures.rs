//! Pictures that Python gives: files, the bytes of files, or arrays.

use std::path::PathBuf;

use image::RgbImage;
use numpy::{PyReadonlyArrayDyn, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use soragen::{Reference, ReferencePicture};

use crate::errors::ForPython;

/// A picture to start from or to end with.
#[derive(FromPyObject)]
pub enum Picture<'py> {
    Bytes(Vec<u8>),
    Array(PyReadonlyArrayDyn<'py, u8>),
    Path(PathBuf),
}

impl Picture<'_> {
    pub fn read(&self) -> PyResult<RgbImage> {
        match self {
            Self::Path(path) => soragen::read_image(path).for_python(),
            Self::Bytes(bytes) => soragen::decode_image(bytes).map_err(PyValueError::new_err),
            Self::Array(array) => {
                let [height, width, 3] = *array.shape() else {
                    return Err(PyValueError::new_err("a picture must be uint8 [H, W, 3]"));
                };
                let samples = array.as_array().iter().copied().collect();
                let picture = RgbImage::from_raw(width as u32, height as u32, samples);
                picture.ok_or_else(|| PyValueError::new_err("a picture is too large"))
            }
        }
    }
}

/// A subject: `bank:NAME`, the path of a picture, or its name and its bytes.
#[derive(FromPyObject)]
pub enum Subject {
    File(String, Vec<u8>),
    Text(PathBuf),
}

impl Subject {
    pub fn read(&self) -> PyResult<Reference> {
        match self {
            Self::Text(text) => Reference::open(&text.to_string_lossy()).for_python(),
            Self::File(name, bytes) => match ReferencePicture::decode(name, bytes) {
                Ok(picture) => Ok(Reference::Picture(picture)),
                Err(reason) => Err(PyValueError::new_err(format!("{name}: {reason}"))),
            },
        }
    }
}
