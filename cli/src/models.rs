//! `soragen models` and `soragen convert`.

use candle_core::Device;
use soragen::checkpoint::{self, Parts};
use soragen::hub::Hub;
use soragen::{ModelInfo, PartSize, Precision, Sizes};

use crate::args::ConvertArgs;
use crate::error::Result;
use crate::output::PartialFile;

pub fn list() -> Result<()> {
    print_line!("builtin  {}", ModelInfo::read("builtin", &Parts::default())?.name)?;
    for name in Hub::from_env().list() {
        print_line!("{name}")?;
    }
    Ok(())
}

pub fn convert(args: &ConvertArgs) -> Result<()> {
    let file = PartialFile::new(&args.to)?;
    let (key, recipe) = (args.key.as_deref(), args.recipe.as_deref());
    let made = checkpoint::convert(&args.from, file.partial(), key, recipe, args.names.into())?;
    file.keep()?;
    let of = made.key.map(|key| format!(" of {key}")).unwrap_or_default();
    eprintln!("{} tensors{of} in {}", made.tensors, args.to.display());
    Ok(())
}

pub fn info(source: &str, parts: &Parts) -> Result<()> {
    let info = ModelInfo::read(source, parts)?;
    let (numerator, denominator) = info.frame_rate;
    let rate = f64::from(numerator) / f64::from(denominator);
    print_line!("name         {}", info.name)?;
    match &info.sizes {
        Sizes::Exact(sizes) => {
            let sizes: Vec<_> = sizes.iter().map(ToString::to_string).collect();
            print_line!("sizes        {}", sizes.join(", "))?;
        }
        Sizes::Multiple { step, min, max, default } => {
            print_line!("sizes        {default}, or both sides a multiple of {step} from {min} to {max}")?;
        }
    }
    print_line!("frame rate   {rate} fps")?;
    print_line!("length       {} frames ({:.2} s)", info.natural_frames, info.natural_frames as f64 / rate)?;
    let streaming = match (info.causal, info.max_frames) {
        (true, None) => "yes, unlimited length".into(),
        (true, Some(frames)) => format!("yes, at most {frames} frames between two cuts"),
        (false, _) => "no, whole clips".into(),
    };
    print_line!("streaming    {streaming}")?;
    let from_image = match (info.image_to_video, info.needs_image) {
        (_, true) => "always",
        (true, false) => "yes",
        (false, false) => "no",
    };
    print_line!("from image   {from_image}")?;
    let to_image = match (info.last_image, info.needs_last_image) {
        (_, true) => "always",
        (true, false) => "yes",
        (false, false) => "no",
    };
    print_line!("to image     {to_image}")?;
    print_line!("continues    {}", if info.past_frames > 0 { "yes" } else { "no" })?;
    print_line!("control      {}", if info.control { "yes" } else { "no" })?;
    print_line!("references   {}", info.max_references)?;
    print_line!("steps        {}", info.steps)?;
    let second = info.guidance_scale_2.map(|scale| format!(", then {scale}")).unwrap_or_default();
    print_line!("guidance     {}{second}", info.guidance_scale)?;
    print_line!("shift        {}", info.shift)?;
    print_line!("negative     {:?}", info.negative_prompt)?;
    for (kind, words) in &info.knows {
        print_line!("{kind:<12} {}", words.join(", "))?;
    }
    let sizes = soragen::part_sizes(source, parts)?;
    for PartSize { part, parameters, by_layer, .. } in &sizes {
        let note = match *part {
            "transformer_2" => ", replaces the first in memory",
            _ if *by_layer => ", loaded layer by layer",
            _ => "",
        };
        print_line!(
            "{:<13}{:.2} million parameters{note}",
            part.replace('_', " "),
            *parameters as f64 / 1e6
        )?;
    }
    for (label, offload) in [("memory", false), ("offloaded", true)] {
        let bytes = |precision| soragen::weights_bytes(&sizes, precision, offload, &Device::Cpu);
        let types = [("f32", Precision::F32), ("bf16 or f16", Precision::Bf16), ("int8", Precision::Int8)];
        let types = types.map(|(name, precision)| format!("{:.2} in {name}", bytes(precision) as f64 / 1e9));
        print_line!("{label:<13}weights in GB: {}", types.join(", "))?;
    }
    Ok(())
}
