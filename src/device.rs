//! The choice of device and precision.

use candle_core::Device;

use crate::error::plain;
use crate::{Error, Precision, Result, kernels};

/// Up to this token width, `auto` stays with f32: 8 bits change the frames of a small model (21 dB for the built-in one).
const NARROW: usize = 1024;

/// Opens the device named by `text`: `auto`, `cpu`, `cuda`, `cuda:N` or `metal`.
///
/// # Errors
/// [`Error::Device`] for an unknown name, or a device that the build or the machine does not support.
pub fn parse(text: &str) -> Result<Device> {
    match text {
        "auto" => Ok(best()),
        "cpu" => Ok(Device::Cpu),
        "cuda" => cuda(0),
        "metal" => metal(),
        _ => match text.strip_prefix("cuda:").map(str::parse) {
            Some(Ok(ordinal)) => cuda(ordinal),
            _ => Err(Error::Device(format!("{text:?} is not a device; use auto, cpu, cuda:N or metal"))),
        },
    }
}

/// The first GPU that this build supports, otherwise the CPU.
fn best() -> Device {
    cuda(0).or_else(|_| metal()).unwrap_or(Device::Cpu)
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize) -> Result<Device> {
    crate::cuda::open(ordinal).map_err(|error| {
        let reason = format!("cannot open CUDA device {ordinal}: {}; use the device `cpu`", plain(&error));
        match Error::from(error) {
            full @ Error::Memory(_) => full,
            _ => Error::Device(reason),
        }
    })
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize) -> Result<Device> {
    Err(missing_feature("CUDA", "cuda"))
}

fn metal() -> Result<Device> {
    if !cfg!(feature = "metal") {
        return Err(missing_feature("Metal", "metal"));
    }
    Device::new_metal(0).map_err(|error| {
        Error::Device(format!("cannot open the Metal device: {}; use the device `cpu`", plain(&error)))
    })
}

fn missing_feature(name: &str, feature: &str) -> Error {
    Error::Device(format!(
        "this build does not support {name}; build it with `--features {feature}`, or use the device `cpu`"
    ))
}

/// The properties of a transformer that decide its precision.
#[derive(Clone, Copy, Debug, Default)]
pub struct TransformerShape {
    /// Width of a token.
    pub width: usize,
    /// Whether the file is a GGUF with quantized tensors.
    pub quantized: bool,
}

/// Resolves `precision` to the data type of weights and arithmetic on `device`; never [`Precision::Auto`]. `shape` is called
/// only if the result depends on it.
///
/// [`Precision::Auto`] selects int8 where it is faster: with wide tokens, products are nearly all of the work, and they take a
/// quarter of the time with VNNI and two thirds with AVX2. Otherwise a quantized GGUF stays quantized, to save memory.
///
/// # Errors
/// [`Error::Device`] for a precision without benefit on the device, such as 16-bit arithmetic, which is slower than f32 on a
/// CPU; [`Error::Request`] for [`Precision::Gguf`] without a quantized file.
pub fn resolve(
    precision: Precision,
    device: &Device,
    shape: impl FnOnce() -> TransformerShape,
) -> Result<Precision> {
    match (precision, device) {
        (Precision::Auto, device) => Ok(match (shape(), device) {
            (TransformerShape { width, .. }, Device::Cpu) if width <= NARROW => Precision::F32,
            (_, Device::Cpu) if kernels::int8_is_fast() => Precision::Int8,
            (TransformerShape { quantized: true, .. }, _) => Precision::Gguf,
            (_, Device::Cpu) => Precision::F32,
            _ => Precision::Bf16,
        }),
        (Precision::Bf16 | Precision::F16, Device::Cpu) => Err(Error::Device(
            "the CPU supports f32, int8 and GGUF only; use the precision f32, int8, gguf or auto".into(),
        )),
        (Precision::Int8, Device::Cuda(_) | Device::Metal(_)) => {
            Err(Error::Device("int8 is for the CPU; use the precision bf16 or auto on a GPU".into()))
        }
        (Precision::Gguf, _) if !shape().quantized => Err(Error::Request(
            crate::Setting::Precision,
            "precision=gguf needs a transformer in a quantized GGUF file; use the precision auto".into(),
        )),
        (precision, _) => Ok(precision),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_device_is_an_error_that_lists_the_names() {
        assert!(matches!(parse("cpu"), Ok(Device::Cpu)));
        assert!(parse("auto").is_ok());
        for wrong in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
            let error = parse(wrong).unwrap_err().to_string();
            assert!(error.contains("cuda:N"), "{wrong}: {error}");
        }
        #[cfg(not(feature = "cuda"))]
        assert!(parse("cuda:0").unwrap_err().to_string().contains("--features cuda"));
    }

    #[test]
    fn auto_on_the_cpu_is_int8_for_wide_transformers_and_f32_for_others() {
        let shape = |width, quantized| move || TransformerShape { width, quantized };
        let auto =
            |width, quantized| resolve(Precision::Auto, &Device::Cpu, shape(width, quantized)).unwrap();
        for quantized in [false, true] {
            assert_eq!(auto(256, quantized), Precision::F32);
            let other = if quantized { Precision::Gguf } else { Precision::F32 };
            let expected = if kernels::int8_is_fast() { Precision::Int8 } else { other };
            assert_eq!(auto(1536, quantized), expected);
        }
        for precision in [Precision::F32, Precision::Int8] {
            assert_eq!(resolve(precision, &Device::Cpu, shape(1536, false)).unwrap(), precision);
        }
        assert!(resolve(Precision::Bf16, &Device::Cpu, shape(256, false)).is_err());
        assert_eq!(resolve(Precision::Gguf, &Device::Cpu, shape(256, true)).unwrap(), Precision::Gguf);
        let error = resolve(Precision::Gguf, &Device::Cpu, shape(256, false)).unwrap_err().to_string();
        assert!(error.contains("GGUF") && error.contains("auto"), "{error}");
    }
}
