//! What models there are and what they can make.

use candle_core::Device;
use soragen::checkpoint::{self, Parts};
use soragen::hub::Hub;
use soragen::{ModelInfo, PartSize, Precision, Sizes};

use crate::args::ConvertArgs;
use crate::error::Result;

pub fn list() -> Result<()> {
    say!("builtin  {}", ModelInfo::read("builtin", &Parts::default())?.name)?;
    for name in Hub::from_env().list() {
        say!("{name}")?;
    }
    Ok(())
}

pub fn convert(args: &ConvertArgs) -> Result<()> {
    let count = checkpoint::convert(&args.from, &args.to, args.key.as_deref(), args.names.into())?;
    eprintln!("{count} tensors in {}", args.to.display());
    Ok(())
}

pub fn info(source: &str, parts: &Parts) -> Result<()> {
    let info = ModelInfo::read(source, parts)?;
    let (numerator, denominator) = info.frame_rate;
    let rate = f64::from(numerator) / f64::from(denominator);
    say!("name         {}", info.name)?;
    match &info.sizes {
        Sizes::Exact(sizes) => {
            let sizes: Vec<_> = sizes.iter().map(ToString::to_string).collect();
            say!("sizes        {}", sizes.join(", "))?;
        }
        Sizes::Multiple { step, min, max, default } => {
            say!("sizes        {default}, or both sides a multiple of {step} from {min} to {max}")?;
        }
    }
    say!("frame rate   {rate} a second")?;
    say!("length       {} frames ({:.2} s)", info.natural_frames, info.natural_frames as f64 / rate)?;
    say!("streams      {}", if info.causal { "yes, for as long as asked" } else { "no, in one piece" })?;
    let from_image = match (info.image_to_video, info.needs_image) {
        (_, true) => "always",
        (true, false) => "yes",
        (false, false) => "no",
    };
    say!("from image   {from_image}")?;
    say!("steps        {}", info.steps)?;
    let second = info.guidance_scale_2.map(|scale| format!(", then {scale}")).unwrap_or_default();
    say!("guidance     {}{second}", info.guidance_scale)?;
    say!("shift        {}", info.shift)?;
    say!("negative     {:?}", info.negative_prompt)?;
    for (kind, words) in &info.knows {
        say!("{kind:<13}{}", words.join(", "))?;
    }
    let sizes = soragen::part_sizes(source, parts)?;
    for PartSize { part, parameters, by_layer, .. } in &sizes {
        let how = match *part {
            "transformer_2" => ", in the place of the other",
            _ if *by_layer => ", in memory layer by layer",
            _ => "",
        };
        say!("{:<13}{:.2} million parameters{how}", part.replace('_', " "), *parameters as f64 / 1e6)?;
    }
    for (what, offload) in [("memory", false), ("offloaded", true)] {
        let bytes = |precision| soragen::weights_bytes(&sizes, precision, offload, &Device::Cpu);
        let all = [("f32", Precision::F32), ("bf16 or f16", Precision::Bf16), ("int8", Precision::Int8)];
        let all = all.map(|(name, precision)| format!("{:.2} in {name}", bytes(precision) as f64 / 1e9));
        say!("{what:<13}GB for the weights: {}", all.join(", "))?;
    }
    Ok(())
}
