//! Which device computes, and in which number format.

use candle_core::{DType, Device};

use crate::{Error, Precision, Result};

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

/// The number format of weights and arithmetic on `device`.
///
/// # Errors
/// [`Error::Device`]: the CPU computes in f32 alone, 16-bit arithmetic is slower there and no use.
pub fn dtype(precision: Precision, device: &Device) -> Result<DType> {
    match (precision, device) {
        (Precision::Auto | Precision::F32, Device::Cpu) | (Precision::F32, _) => Ok(DType::F32),
        (Precision::Auto | Precision::Bf16, Device::Cuda(_) | Device::Metal(_)) => Ok(DType::BF16),
        (Precision::F16, Device::Cuda(_) | Device::Metal(_)) => Ok(DType::F16),
        (Precision::Bf16 | Precision::F16, Device::Cpu) => {
            Err(Error::Device("the CPU computes in f32 only; use the precision f32 or auto".into()))
        }
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
    fn the_cpu_computes_in_f32() {
        assert_eq!(dtype(Precision::Auto, &Device::Cpu).unwrap(), DType::F32);
        assert!(dtype(Precision::Bf16, &Device::Cpu).is_err());
    }
}
