//! Which device computes, and in which number format.

use candle_core::Device;

use crate::{Error, Precision, Result, kernels};

/// Up to this width of a token, what is rounded and scaled for products in 8 bits takes what they save.
const NARROW: usize = 1024;

/// The device that `text` names: `auto`, `cpu`, `cuda`, `cuda:N` or `metal`.
///
/// # Errors
/// [`Error::Device`] says whether the name is wrong, the build lacks the device or the machine does.
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

/// The first GPU that this build can use, else the CPU.
fn best() -> Device {
    cuda(0).or_else(|_| metal()).unwrap_or(Device::Cpu)
}

fn cuda(ordinal: usize) -> Result<Device> {
    if !cfg!(feature = "cuda") {
        return Err(lacking("CUDA", "cuda"));
    }
    Device::new_cuda(ordinal)
        .map_err(|e| Error::Device(format!("CUDA device {ordinal} cannot be used: {e}; `cpu` always can")))
}

fn metal() -> Result<Device> {
    if !cfg!(feature = "metal") {
        return Err(lacking("Metal", "metal"));
    }
    Device::new_metal(0).map_err(|e| Error::Device(format!("Metal cannot be used: {e}; `cpu` always can")))
}

fn lacking(name: &str, feature: &str) -> Error {
    Error::Device(format!(
        "this build has no {name}; build it with `--features {feature}`, or use the device `cpu`"
    ))
}

/// The number format of weights and arithmetic that `precision` comes to on `device`, for tokens of `width` numbers, which
/// is asked for only where it counts; never [`Precision::Auto`].
///
/// That one takes 8 bits where they pay: of wide tokens the products are nearly all of the work, and they take a quarter of
/// the time on a CPU that multiplies numbers of 8 bits in vectors.
///
/// # Errors
/// [`Error::Device`] for one that is of no use there: 16-bit arithmetic is slower on a CPU than that of f32.
pub fn resolve(precision: Precision, device: &Device, width: impl FnOnce() -> usize) -> Result<Precision> {
    match (precision, device) {
        (Precision::Auto, Device::Cpu) if kernels::int8_is_fast() && width() > NARROW => Ok(Precision::Int8),
        (Precision::Auto, Device::Cpu) => Ok(Precision::F32),
        (Precision::Auto, _) => Ok(Precision::Bf16),
        (Precision::Bf16 | Precision::F16, Device::Cpu) => Err(Error::Device(
            "the CPU computes in f32 and in 8 bits only; use the precision f32, int8 or auto".into(),
        )),
        (Precision::Int8, Device::Cuda(_) | Device::Metal(_)) => {
            Err(Error::Device("8 bits are for the CPU; use the precision bf16 or auto on a GPU".into()))
        }
        (precision, _) => Ok(precision),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_is_found_or_explained() {
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
    fn the_cpu_computes_in_f32_and_what_is_wide_in_8_bits() {
        assert_eq!(resolve(Precision::Auto, &Device::Cpu, || 256).unwrap(), Precision::F32);
        let wide = resolve(Precision::Auto, &Device::Cpu, || 1536).unwrap();
        assert_eq!(wide == Precision::Int8, kernels::int8_is_fast());
        for precision in [Precision::F32, Precision::Int8] {
            assert_eq!(resolve(precision, &Device::Cpu, || 1536).unwrap(), precision);
        }
        assert!(resolve(Precision::Bf16, &Device::Cpu, || 256).is_err());
    }
}
