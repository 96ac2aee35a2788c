// SPDX-License-Identifier: MPL-2.0

//! The element's properties. Each is declared once: field, type, name, nick, blurb, range, default and mutability.

use std::sync::LazyLock;

use gst::glib;
use gst::prelude::*;
use soragen::Cache;
use soragen::watermark::STRENGTHS;

use super::enums::{Decoder, Label, LatePolicy, Precision, Transition};

/// A property that is stored in [`Settings`].
struct Property {
    spec: glib::ParamSpec,
    set: fn(&mut Settings, &glib::Value),
    get: fn(&Settings) -> glib::Value,
}

/// Frame size and rate that a URI sets; downstream decides those that are `None`.
#[derive(Clone, Debug, Default)]
pub struct UriCaps {
    pub width: Option<u32>,
    pub height: Option<u32>,
    pub framerate: Option<(u32, u32)>,
}

/// Declares [`Settings`], its defaults and the table of properties. Each entry is `field: type = read(builder);` where
/// `read` turns the property's value into that of the field.
macro_rules! properties {
    ($($field:ident: $type:ty = $read:ident($builder:expr);)+) => {
        /// The values of the properties.
        #[derive(Clone, Debug)]
        pub struct Settings {
            $(pub $field: $type,)+
            pub uri_caps: UriCaps,
            /// A VACE transformer; `sorafilter` has the property.
            pub vace: Option<String>,
        }

        impl Default for Settings {
            fn default() -> Self {
                Self {
                    $($field: $read($builder.build().default_value()),)+
                    uri_caps: UriCaps::default(),
                    vace: None,
                }
            }
        }

        fn table() -> Vec<Property> {
            vec![$(Property {
                spec: $builder.build(),
                set: |settings, value| settings.$field = $read(value),
                get: |settings| settings.$field.to_value(),
            }),+]
        }
    };
}

properties! {
    prompt: Option<String> = value(
        string(
            "prompt",
            "Prompt",
            "Description of the video, or several with weights, as in a fox :: 0.7 | a wolf :: 0.3; while playing, a new prompt \
             takes effect with the next chunk",
        )
        .mutable_playing()
    );
    negative_prompt: Option<String> = value(
        string(
            "negative-prompt",
            "Negative prompt",
            "Description of what to avoid; only used with a guidance scale above 1; while playing, a new one takes effect \
             with the next chunk (unset = the model's default)",
        )
        .mutable_playing()
    );
    model: String = value_or_empty(
        string(
            "model",
            "Model",
            "Model to load: `builtin`, a folder in diffusers or Wan layout, a transformer in one file (safetensors, GGUF), or \
             hf:owner/name@revision, which is downloaded unless it is in the cache of huggingface_hub",
        )
        .default_value(Some("builtin"))
        .mutable_ready()
    );
    transformer: Option<String> = non_empty(
        string("transformer", "Transformer", "File or folder that replaces the model's transformer (unset = none)")
            .mutable_ready()
    );
    text_encoder: Option<String> = non_empty(
        string(
            "text-encoder",
            "Text encoder",
            "File or folder that replaces the model's text encoder, with its tokenizer.json next to it (unset = none)",
        )
        .mutable_ready()
    );
    autoencoder: Option<String> = non_empty(
        string(
            "autoencoder",
            "Autoencoder",
            "File or folder that replaces the model's autoencoder; TAEHV is supported (unset = none)",
        )
        .mutable_ready()
    );
    image_encoder: Option<String> = non_empty(
        string(
            "image-encoder",
            "Image encoder",
            "File or folder that replaces the CLIP image encoder of an image-to-video model of Wan 2.1 (unset = none)",
        )
        .mutable_ready()
    );
    recipe: Option<String> = non_empty(
        string(
            "recipe",
            "Recipe",
            "Sampling recipe of a causal transformer: self-forcing, causal-forcing, causal-forcing-framewise-1, -2 or -4, \
             longlive, longlive-absolute, longlive-2, streamdiffusion-v2, or a soragen.json file (unset = the soragen.json next to the \
             transformer, if there is one)",
        )
        .mutable_ready()
    );
    lora: Option<String> = non_empty(
        string(
            "lora",
            "LoRA",
            "LoRA files, each as PATH or PATH:SCALE, separated by `;`; with two transformers, `high:` or `low:` before the \
             path selects one (unset = none)",
        )
        .mutable_ready()
    );
    device: String = value_or_empty(
        string("device", "Device", "Device that computes: auto, cpu, cuda:N or metal")
            .default_value(Some("auto"))
            .mutable_ready()
    );
    precision: Precision = value(
        glib::ParamSpecEnum::builder_with_default("precision", Precision::default())
            .nick("Precision")
            .blurb("Data type of the weights and of the arithmetic (default: auto)")
            .mutable_ready()
    );
    decoder: Decoder = value(
        glib::ParamSpecEnum::builder_with_default("decoder", Decoder::default())
            .nick("Decoder")
            .blurb("Decoder from latents to frames: the model's own, or TAEHV (taew2_1.safetensors or taew2_2.safetensors in \
                    the model's folder) (default: auto)")
            .mutable_ready()
    );
    threads: u32 = value(
        glib::ParamSpecUInt::builder("threads")
            .nick("Threads")
            .blurb("Number of threads that denoise, and of those that decode the chunk before meanwhile; at most the number of \
                    CPUs; the output does not depend on it (0 = one per core, shared with other elements)")
            .maximum(MAX_THREADS)
            .mutable_ready()
    );
    offload: bool = value(
        glib::ParamSpecBoolean::builder("offload")
            .nick("Offload")
            .blurb("Keep the transformer's blocks in their files and load each one before it runs: slower, but little more \
                    memory than one block")
            .mutable_ready()
    );
    image: Option<String> = non_empty(
        string(
            "image",
            "Image",
            "Image file to start from; a causal model crops it at the centre, a whole-clip model stretches it (unset = none)",
        )
        .mutable_ready()
    );
    last_image: Option<String> = non_empty(
        string(
            "last-image",
            "Last image",
            "Image file to end with, stretched to the size; for a VACE model, Wan 2.1 FLF2V-14B or Wan 2.2 I2V-A14B (unset = none)",
        )
        .mutable_ready()
    );
    loops: bool = value(
        glib::ParamSpecBoolean::builder("loop")
            .nick("Loop")
            .blurb("End where the video begins: its first frame, `image`, follows its last; for models that can end with an image")
            .mutable_ready()
    );
    extend: Option<String> = non_empty(
        string(
            "extend",
            "Extend",
            "Video to continue, a file or a URI: its last frames are decoded, and the new frames follow them; for causal and VACE models \
             (unset = none)",
        )
        .mutable_ready()
    );
    reference: Option<String> = non_empty(
        string(
            "reference",
            "Reference",
            "Pictures of subjects that the video shows, separated by `;`: PNG, WebP, JPEG or SVG files, or bank:NAME for a drawing of \
             the model; while playing, new ones take effect with the next chunk (unset = what the prompt names)",
        )
        .mutable_playing()
    );
    motion_path: Option<String> = non_blank(
        string(
            "motion-path",
            "Motion path",
            "Where the references are, in seconds, as in 0 left ground | 2 center up | 4 right ground; a second reference's path \
             after `;`; while playing, a new one begins with the next chunk (unset = what the prompt says)",
        )
        .mutable_playing()
    );
    storyboard: Option<String> = non_blank(
        string(
            "storyboard",
            "Storyboard",
            "Shots that replace the prompt: a file (TOML, SubRip, WebVTT), or inline as in \
             0:00 a cat wakes | 0:04 the cat runs | 0:08 (cut) snow falls | 0:12 (unset = none)",
        )
        .mutable_ready()
    );
    transition: Transition = value(
        glib::ParamSpecEnum::builder_with_default("transition", Transition::default())
            .nick("Transition")
            .blurb("How a prompt that is set while playing begins; set it before the prompt (default: continue)")
            .mutable_playing()
    );
    blend_chunks: u32 = value(
        glib::ParamSpecUInt::builder("blend-chunks")
            .nick("Blend chunks")
            .blurb("Number of chunks over which a new prompt is blended in, except at a cut (0 = at once); while playing, it counts for the prompts after it")
            .maximum(1000)
            .mutable_playing()
            .controllable()
    );
    seed: u64 = value(
        glib::ParamSpecUInt64::builder("seed")
            .nick("Seed")
            .blurb("Random seed; while playing, a new one counts from the next chunk (default: 0)")
            .mutable_playing()
            .controllable()
    );
    steps: u32 = value(
        glib::ParamSpecUInt::builder("steps")
            .nick("Steps")
            .blurb("Number of denoising steps, per chunk for a causal model; while playing, it counts from the next chunk (0 = the model's \
                    default)")
            .maximum(1000)
            .mutable_playing()
            .controllable()
    );
    guidance_scale: f64 = value(
        scale("guidance-scale")
            .nick("Guidance scale")
            .blurb("Classifier-free guidance scale; 1 or less disables guidance; while playing, it counts from the next chunk of a causal \
                    model (0 = the model's default)")
            .mutable_playing()
            .controllable()
    );
    guidance_scale_2: f64 = value(
        scale("guidance-scale-2")
            .nick("Guidance scale 2")
            .blurb("Classifier-free guidance scale of the low-noise transformer of a model with two, such as Wan 2.2 A14B \
                    (0 = guidance-scale if it is set, otherwise the model's default)")
            .mutable_ready()
    );
    shift: f64 = value(
        scale("shift")
            .nick("Shift")
            .blurb("Shift of the noise schedule towards high noise; while playing, it counts from the next chunk of a causal model (0 = the \
                    model's default)")
            .mutable_playing()
            .controllable()
    );
    duration: i64 = value(
        glib::ParamSpecInt64::builder("duration")
            .nick("Duration")
            .blurb("Duration of the video in nanoseconds (0 = that of the storyboard, else the model's natural duration, or endless if is-live is set and \
                    the model is causal; -1 = endless)")
            .minimum(ENDLESS)
            .mutable_ready()
    );
    is_live: bool = value(
        glib::ParamSpecBoolean::builder("is-live")
            .nick("Is live")
            .blurb("Act as a live source: push each frame at its time on the pipeline's clock; a frame that is late is replaced as late-policy says")
            .mutable_ready()
    );
    slate: String = value_or_empty(
        string(
            "slate",
            "Slate",
            "What a live source shows while the model loads, and after it has failed: none, black, or file:PATH with the path of a \
             picture; with a slate a failure of the model is a warning, and the action signal regenerate starts it again",
        )
        .default_value(Some("none"))
        .mutable_ready()
    );
    late_policy: LatePolicy = value(
        glib::ParamSpecEnum::builder_with_default("late-policy", LatePolicy::default())
            .nick("Late policy")
            .blurb("What a live source pushes in place of a frame that is late (default: hold)")
            .mutable_ready()
    );
    timecode: Option<String> = non_empty(
        string(
            "timecode",
            "Time code",
            "SMPTE time code of the first frame, as in 10:00:00:00; drop-frame at 30000/1001 and 60000/1001 (unset = no time \
             codes)",
        )
        .mutable_ready()
    );
    cache_dir: Option<String> = value(
        string(
            "cache-dir",
            "Cache folder",
            "Folder of the cache of latents and text embeddings; a video in the cache is only decoded (unset = soragen in \
             the user's cache folder, none or empty = no cache)",
        )
        .mutable_ready()
    );
    cache_size: u64 = value(
        glib::ParamSpecUInt64::builder("cache-size")
            .nick("Cache size")
            .blurb("Maximum size of the cache in bytes; the least recently used entries are evicted first (0 = no cache)")
            .default_value(Cache::DEFAULT_SIZE)
            .mutable_ready()
    );
    policy: Option<String> = non_empty(
        string("policy", "Policy", "TOML file of the prompt policy (unset = the built-in policy)").mutable_ready()
    );
    audit_log: Option<String> = non_empty(
        string("audit-log", "Audit log", "File to which every decision of the policy is appended (unset = none)")
            .mutable_ready()
    );
    label: Label = value(
        glib::ParamSpecEnum::builder_with_default("label", Label::default())
            .nick("Label")
            .blurb("Visible label in the upper left corner of the frames; while playing, it counts from the next chunk (default: none)")
            .mutable_playing()
            .controllable()
    );
    watermark: bool = value(
        glib::ParamSpecBoolean::builder("watermark")
            .nick("Watermark")
            .blurb("Embed an invisible watermark, so that the video can be detected as generated")
            .default_value(true)
            .mutable_ready()
    );
    watermark_key: Option<String> = non_empty(
        string("watermark-key", "Watermark key", "File with the key of the watermark (unset = the public key)")
            .mutable_ready()
    );
    watermark_strength: f64 = value(
        scale("watermark-strength")
            .nick("Watermark strength")
            .blurb("Strength of the watermark relative to the default, at which it is invisible (default: 1)")
            .minimum(*STRENGTHS.start())
            .maximum(*STRENGTHS.end())
            .default_value(1.0)
            .mutable_ready()
    );
}

const ENDLESS: i64 = -1;
/// Far above the number of cores of any machine.
const MAX_THREADS: u32 = 1024;

static TABLE: LazyLock<Vec<Property>> = LazyLock::new(table);

/// The specifications of all properties, in the order of gst-inspect.
pub fn specs() -> &'static [glib::ParamSpec] {
    static SPECS: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
        let stats = glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
            .nick("Statistics")
            .blurb("frames: number of generated frames; first-frame-ns: time from the start to the first frame; fps: generated \
                    frames per second; chunk-ns: time that the last chunk took; late: number of late frames; cached: number \
                    of frames whose latents came from the cache; forwards: number of transformer forward passes")
            .read_only()
            .build();
        TABLE.iter().map(|property| property.spec.clone()).chain([stats]).collect()
    });
    &SPECS
}

/// New specifications of the properties `names`, for another element: a specification belongs to one class.
pub fn specs_of(names: &[&str]) -> Vec<glib::ParamSpec> {
    let specs = table().into_iter().map(|property| property.spec);
    specs.filter(|spec| names.contains(&spec.name())).collect()
}

impl Settings {
    /// Sets a property. Returns false if there is none of this name.
    pub fn set(&mut self, name: &str, value: &glib::Value) -> bool {
        let property = find(name);
        if let Some(property) = property {
            (property.set)(self, value);
        }
        property.is_some()
    }

    /// The value of a property.
    pub fn get(&self, name: &str) -> Option<glib::Value> {
        find(name).map(|property| (property.get)(self))
    }
}

fn find(name: &str) -> Option<&'static Property> {
    TABLE.iter().find(|property| property.spec.name() == name)
}

fn string<'a>(name: &'a str, nick: &'a str, blurb: &'a str) -> glib::ParamSpecStringBuilder<'a> {
    glib::ParamSpecString::builder(name).nick(nick).blurb(blurb)
}

fn scale(name: &str) -> glib::ParamSpecDoubleBuilder<'_> {
    glib::ParamSpecDouble::builder(name).minimum(0.0).maximum(100.0)
}

fn value<'a, T: glib::value::FromValue<'a>>(value: &'a glib::Value) -> T {
    value.get().unwrap_or_else(|_| unreachable!("GObject checks the type"))
}

fn value_or_empty(text: &glib::Value) -> String {
    value::<Option<String>>(text).unwrap_or_default()
}

fn non_empty(text: &glib::Value) -> Option<String> {
    value::<Option<String>>(text).filter(|text| !text.is_empty())
}

fn non_blank(text: &glib::Value) -> Option<String> {
    value::<Option<String>>(text).filter(|text| !text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_have_unique_names_and_descriptions() {
        gst::init().unwrap();
        let names: std::collections::HashSet<_> = specs().iter().map(|spec| spec.name()).collect();
        assert_eq!(names.len(), specs().len());
        for spec in specs() {
            assert!(spec.blurb().is_some_and(|blurb| !blurb.is_empty()), "{}", spec.name());
        }
    }

    #[test]
    fn values_are_read_back() {
        gst::init().unwrap();
        let mut settings = Settings::default();
        assert_eq!(settings.model, "builtin");
        assert!(settings.watermark);
        assert!(settings.set("seed", &7u64.to_value()));
        assert_eq!(settings.seed, 7);
        assert_eq!(settings.get("seed").unwrap().get::<u64>().unwrap(), 7);
        assert!(settings.set("storyboard", &" ".to_value()));
        assert_eq!(settings.storyboard, None);
        assert!(settings.set("cache-dir", &"".to_value()));
        assert_eq!(settings.cache_dir.as_deref(), Some(""), "an empty folder disables the cache");
        assert!(settings.set("cache-dir", &"none".to_value()));
        assert!(settings.cache().is_none());
        for (list, count) in [("a;b:0.5;", 2), (" a ; ; ", 1), (";", 0)] {
            assert!(settings.set("lora", &list.to_value()));
            assert_eq!(settings.open_options().parts.loras.len(), count, "{list:?}");
        }
        assert!(!settings.set("stats", &7u64.to_value()));
    }
}
