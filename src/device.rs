//! Which device computes, and in which number format.

use candle_core::Device;

use crate::error::plain;
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
        return Err(missing_model("CUDA", "cuda"));
    }
    Device::new_cuda(ordinal).map_err(|error| {
        let reason = format!("CUDA device {ordinal} cannot be used: {}; `cpu` always can", plain(&error));
        match Error::from(error) {
            full @ Error::Memory(_) => full,
            _ => Error::Device(reason),
        }
    })
}

fn metal() -> Result<Device> {
    if !cfg!(feature = "metal") {
        return Err(missing_model("Metal", "metal"));
    }
    Device::new_metal(0)
        .map_err(|error| Error::Device(format!("Metal cannot be used: {}; `cpu` always can", plain(&error))))
}

fn missing_model(name: &str, feature: &str) -> Error {
    Error::Device(format!(
        "this build has no {name}; build it with `--features {feature}`, or use the device `cpu`"
    ))
}

/// What counts of a transformer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Form {
    /// WeightFormat of a token.
    pub width: usize,
    /// Whether its file has blocks that can be computed with: GGUF.
    pub blocks: bool,
}

/// The number format of weights and arithmetic that `precision` comes to on `device` for a transformer of this form, which
/// is asked for only where it counts; never [`Precision::Auto`].
///
/// That one takes 8 bits where they pay: of wide tokens the products are nearly all of the work, and they take a quarter of
/// the time on a CPU that multiplies numbers of 8 bits in vectors. Where they do not, whoever has a GGUF has it to spare
/// memory.
///
/// # Errors
/// [`Error::Device`] for one that is of no use there: 16-bit arithmetic is slower on a CPU than that of f32;
/// [`Error::Request`] for blocks that the file does not have.
pub fn resolve(precision: Precision, device: &Device, form: impl FnOnce() -> Form) -> Result<Precision> {
    match (precision, device) {
        (Precision::Auto, device) => Ok(match (form(), device) {
            (Form { width, .. }, Device::Cpu) if width <= NARROW => Precision::F32,
            (_, Device::Cpu) if kernels::int8_is_fast() => Precision::Int8,
            (Form { blocks: true, .. }, _) => Precision::Gguf,
            (_, Device::Cpu) => Precision::F32,
            _ => Precision::Bf16,
        }),
        (Precision::Bf16 | Precision::F16, Device::Cpu) => Err(Error::Device(
            "the CPU computes in f32, in 8 bits and in those of GGUF only; use the precision f32, int8, gguf or auto"
                .into(),
        )),
        (Precision::Int8, Device::Cuda(_) | Device::Metal(_)) => {
            Err(Error::Device("8 bits are for the CPU; use the precision bf16 or auto on a GPU".into()))
        }
        (Precision::Gguf, _) if !form().blocks => Err(Error::Request(crate::Setting::Precision,
            "precision=gguf is for a transformer in a quantised GGUF file; use the precision auto"
                .into(),
        )),
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
        let form = |width, blocks| move || Form { width, blocks };
        let auto = |width, blocks| resolve(Precision::Auto, &Device::Cpu, form(width, blocks)).unwrap();
        for blocks in [false, true] {
            assert_eq!(auto(256, blocks), Precision::F32);
            let other = if blocks { Precision::Gguf } else { Precision::F32 };
            let expected = if kernels::int8_is_fast() { Precision::Int8 } else { other };
            assert_eq!(auto(1536, blocks), expected);
        }
        for precision in [Precision::F32, Precision::Int8] {
            assert_eq!(resolve(precision, &Device::Cpu, form(1536, false)).unwrap(), precision);
        }
        assert!(resolve(Precision::Bf16, &Device::Cpu, form(256, false)).is_err());
        assert_eq!(resolve(Precision::Gguf, &Device::Cpu, form(256, true)).unwrap(), Precision::Gguf);
        let refused = resolve(Precision::Gguf, &Device::Cpu, form(256, false)).unwrap_err().to_string();
        assert!(refused.contains("GGUF") && refused.contains("auto"), "{refused}");
    }
}
