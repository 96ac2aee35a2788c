//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};
use soragen::checkpoint::Lora;
use soragen::label::Label;
use soragen::{Decoder, Precision, Restyle, Size};

use crate::output::Codec;
use crate::signing::SigningOptions;

/// Generate video from text, or from an image and text
#[derive(Parser)]
#[command(name = "soragen", version)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Generate a video file
    Render(Box<RenderArgs>),
    /// List, download and describe models
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Convert a PyTorch checkpoint to safetensors, without executing code from it
    Convert(ConvertArgs),
    /// Inspect or clear the cache of latents and text embeddings
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Detect the watermark and the C2PA manifest of a video
    ///
    /// Looks at all video streams. Prints a JSON report. Exits with status 0 if the video has a watermark or a valid manifest
    /// that declares it as generated, with 3 if it has neither, and with 1 if the file has no picture, or a part of it cannot
    /// be decoded and the rest has neither.
    Detect(DetectArgs),
    /// Create a test key and test certificates for signing; no verifier trusts them
    Certificate(CertificateArgs),
    /// Test a content policy, or verify an audit log
    #[command(subcommand)]
    Policy(PolicyCommand),
}

#[derive(Subcommand)]
pub enum CacheCommand {
    /// Print the number of entries and their size
    List(CacheArgs),
    /// Remove all entries
    Clear(CacheArgs),
}

#[derive(clap::Args)]
pub struct CacheArgs {
    /// Folder of the cache for latents and text embeddings: a video that was generated before is only decoded again.
    /// "none" or "" disables the cache [default: `soragen` in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<String>,
}

#[derive(Subcommand)]
pub enum ModelsCommand {
    /// List local models: the built-in model and downloaded Hugging Face Hub models
    List,
    /// Download or update a model from the Hugging Face Hub
    ///
    /// Files are stored in the cache of huggingface_hub (HF_HOME). Complete files are not downloaded again, and an
    /// interrupted download is resumed.
    Pull {
        /// hf:owner/name or hf:owner/name@revision, where revision is a branch, a tag or a commit
        source: String,
    },
    /// Describe a model: sizes, length, defaults, memory
    ///
    /// Only configuration files and headers are read, not the weights.
    Info {
        /// `builtin`, a folder in diffusers or Wan layout, a transformer in one file, or hf:owner/name
        source: String,
        #[command(flatten)]
        parts: PartsArgs,
    },
}

#[derive(clap::Args)]
pub struct PartsArgs {
    /// Transformer to use instead of the model's
    #[arg(long, value_name = "PATH")]
    pub transformer: Option<PathBuf>,

    /// Text encoder to use instead of the model's, with tokenizer.json in the same folder
    #[arg(long, value_name = "PATH")]
    pub text_encoder: Option<PathBuf>,

    /// Autoencoder to use instead of the model's; TAEHV is supported
    #[arg(long, value_name = "PATH")]
    pub autoencoder: Option<PathBuf>,

    /// CLIP image encoder to use instead of the model's, for an image-to-video model of Wan 2.1
    #[arg(long, value_name = "PATH")]
    pub image_encoder: Option<PathBuf>,

    /// VACE transformer whose control branch is added to the transformer, for a causal student of the same base
    #[arg(long, value_name = "PATH")]
    pub vace: Option<PathBuf>,

    /// Sampling recipe of a causal transformer: self-forcing, causal-forcing, causal-forcing-framewise-1, -2 or -4, longlive,
    /// longlive-absolute, longlive-2, streamdiffusion-v2, or the path of a soragen.json [default: soragen.json in the transformer's folder]
    #[arg(long, value_name = "NAME")]
    pub recipe: Option<String>,

    /// LoRA for the transformer, with an optional scale; the prefix high: or low: selects one of two transformers. Can be
    /// repeated
    #[arg(long, value_name = "PATH[:SCALE]")]
    pub lora: Vec<String>,
}

impl From<&PartsArgs> for soragen::checkpoint::Parts {
    fn from(args: &PartsArgs) -> Self {
        let PartsArgs { transformer, text_encoder, autoencoder, image_encoder, vace, recipe, lora } = args;
        Self {
            transformer: transformer.clone(),
            text_encoder: text_encoder.clone(),
            autoencoder: autoencoder.clone(),
            image_encoder: image_encoder.clone(),
            vace: vace.clone(),
            recipe: recipe.clone(),
            loras: lora.iter().map(|text| Lora::parse(text)).collect(),
        }
    }
}

#[derive(clap::Args)]
pub struct ConvertArgs {
    /// PyTorch file: .pt, .pth, .ckpt or .bin
    pub from: PathBuf,

    /// Output file, .safetensors
    pub to: PathBuf,

    /// Key of the object that holds the weights [default: the common key that the file has]
    #[arg(long, value_name = "NAME", conflicts_with = "recipe")]
    pub key: Option<String>,

    /// Recipe of a causal transformer: of the keys generator and generator_ema it selects the one that the original code uses.
    /// A file with both needs --recipe or --key
    #[arg(long, value_name = "NAME")]
    pub recipe: Option<String>,

    /// Naming scheme of the output tensors
    #[arg(long, value_enum, default_value_t)]
    pub names: Names,
}

/// Naming scheme of the output tensors.
#[derive(Clone, Copy, Default, clap::ValueEnum)]
pub enum Names {
    /// Unchanged
    #[default]
    Kept,
    /// diffusers and transformers names
    Diffusers,
    /// Names of the original Wan checkpoints
    Original,
}

impl From<Names> for soragen::checkpoint::Names {
    fn from(names: Names) -> Self {
        match names {
            Names::Kept => Self::InFile,
            Names::Diffusers => Self::Diffusers,
            Names::Original => Self::Original,
        }
    }
}

#[derive(Subcommand)]
pub enum PolicyCommand {
    /// Check each line of stdin as a prompt; exits with status 3 if one is blocked
    Check {
        /// Policy file (TOML) [default: the built-in policy]
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
    },
    /// Verify that an audit log was not modified
    Verify {
        /// Audit log; its .head file must be in the same folder
        log: PathBuf,
    },
}

#[derive(clap::Args)]
pub struct DetectArgs {
    /// Video file in any format that GStreamer decodes
    pub file: PathBuf,

    /// File with the watermark key [default: the public key]
    #[arg(long, value_name = "FILE")]
    pub watermark_key: Option<PathBuf>,

    /// PEM file with the certificates of trusted authorities
    #[arg(long, value_name = "FILE")]
    pub trust_anchors: Option<PathBuf>,
}

#[derive(clap::Args)]
pub struct CertificateArgs {
    /// Folder for certificate.pem, private-key.pem and authority.pem; existing files are not overwritten
    #[arg(default_value = ".")]
    pub folder: PathBuf,

    /// Organization name in the certificates
    #[arg(long, value_name = "NAME", default_value = "soragen test")]
    pub organization: String,
}

#[derive(clap::Args)]
pub struct RenderArgs {
    /// Text that describes the video
    #[arg(required_unless_present = "storyboard")]
    pub prompt: Option<String>,

    /// Prompts over time: a file (TOML, SubRip, WebVTT), or text such as
    /// "0:00 a cat wakes | 0:04 the cat runs | 0:08 (cut) snow falls | 0:12"
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    pub storyboard: Option<String>,

    /// Number of chunks over which a prompt change is blended in; cuts are immediate
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub blend_chunks: u32,

    /// Output file: .mp4, .mov, .mkv, .webm, .y4m, .png with %05d in its name, or .safetensors with one tensor `frames`,
    /// f32 [T, H, W, 3] in [0, 1]
    ///
    /// A FIFO, /dev/stdout and /dev/null are written to; without an extension --codec selects the format (h264: .mp4, raw:
    /// .y4m, ffv1: .mkv). .y4m is written while the video is generated, .mp4 at the end. Other devices are refused.
    #[arg(short, long, value_name = "OUT", default_value = "out.mp4")]
    pub output: PathBuf,

    /// Video codec [default: h264; prores in .mov, vp8 in .webm]. In prores, ffv1 (.mkv) and h264-intra every frame is
    /// a key frame
    #[arg(long, value_name = "CODEC")]
    pub codec: Option<Codec>,

    /// Write an OpenTimelineIO timeline with one clip per shot, for video editors
    #[arg(long, value_name = "FILE.otio")]
    pub timeline: Option<PathBuf>,

    /// `builtin`, a folder in diffusers or Wan layout, a transformer in one file (safetensors, GGUF), or
    /// hf:owner/name@revision, which is downloaded if it is missing
    #[arg(long, value_name = "SRC", default_value = "builtin")]
    pub model: String,

    #[command(flatten)]
    pub parts: PartsArgs,

    /// Size in pixels [default: the model's; with --image, --video or --control, a size with its aspect ratio]
    #[arg(long, value_name = "WxH", value_parser = size)]
    pub size: Option<Size>,

    /// Length in frames [default: the end of the storyboard, or the model's length; with --video
    /// of a causal model its end; with --control its length, at most the model's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub frames: Option<u64>,

    /// Length in seconds, at the model's frame rate
    #[arg(long, value_name = "SECONDS", conflicts_with = "frames", allow_negative_numbers = true, value_parser = seconds)]
    pub duration: Option<f64>,

    /// Random seed
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// Number of denoising steps [default: the model's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: Option<u32>,

    /// Classifier-free guidance scale; 1 disables guidance [default: the model's]
    #[arg(long, value_name = "G", allow_negative_numbers = true)]
    pub guidance: Option<f64>,

    /// Guidance scale of the second transformer (Wan 2.2 A14B) [default: --guidance]
    #[arg(long, value_name = "G", allow_negative_numbers = true)]
    pub guidance_2: Option<f64>,

    /// Shift of the noise schedule [default: the model's]
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub shift: Option<f64>,

    /// Negative prompt [default: the model's]
    #[arg(long, value_name = "TEXT")]
    pub negative: Option<String>,

    /// Image to start from; a causal model crops it at the centre, a whole-clip model stretches it
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,

    /// Image to end with, stretched to the size; for a VACE model, Wan 2.1 FLF2V-14B or Wan 2.2 I2V-A14B
    #[arg(long, value_name = "FILE", conflicts_with_all = ["video", "loops"])]
    pub last_image: Option<PathBuf>,

    /// End where the video begins: its first frame, --image, follows its last. For models as with --last-image
    #[arg(long = "loop", requires = "image", conflicts_with = "video")]
    pub loops: bool,

    /// Control video for a VACE model: a file or a URI with depth, poses, edges, or a video of which --mask leaves a part. Its frames
    /// are stretched to the size
    #[arg(long, value_name = "FILE|URI")]
    pub control: Option<String>,

    /// Mask of the control video, a video or an image: white where the picture is made anew, black where it stays
    #[arg(long, value_name = "FILE|URI", requires = "control")]
    pub mask: Option<String>,

    /// How much a control video, images and references steer a VACE model, from 0 to 2
    #[arg(long, value_name = "N", default_value_t = 1.0, allow_negative_numbers = true)]
    pub control_scale: f64,

    /// Video to change: a file or a URI. Its frames are stretched to the size, and it is cut off at the length
    #[arg(long, value_name = "FILE|URI", conflicts_with = "image")]
    pub video: Option<String>,

    /// Video to continue: a file or a URI. The output has its frames, stretched to the size and at the model's frame rate, and then
    /// the new ones. For causal and VACE models
    #[arg(long, value_name = "FILE|URI", conflicts_with_all = ["image", "video"])]
    pub extend: Option<String>,

    /// How much the video is changed, from 0 to 1
    #[arg(long, value_name = "N", default_value_t = Restyle::default().strength, requires = "video", allow_negative_numbers = true)]
    pub strength: f64,

    /// How much less where the video moves fast, from 0 to 1; for causal models
    #[arg(long, value_name = "N", default_value_t = Restyle::default().motion_noise, requires = "video", allow_negative_numbers = true)]
    pub motion_noise: f64,

    /// Picture of a subject that the video shows: a PNG, WebP, JPEG or SVG file, or bank:NAME; may be repeated
    /// [default: what the prompt names]
    #[arg(long, value_name = "FILE|bank:NAME")]
    pub reference: Vec<String>,

    /// Where the references are, in seconds, as in "0 left ground | 2 center up"; a second path after `;` [default: what the
    /// prompt says]
    #[arg(long, value_name = "PATH")]
    pub motion_path: Option<String>,

    /// Content policy for prompts (TOML) [default: the built-in policy]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,

    /// Append every policy decision to this file
    #[arg(long, value_name = "FILE")]
    pub audit_log: Option<PathBuf>,

    /// Visible label in the upper left corner: nothing, AI, AI GENERATED or AI生成. Not drawn in .safetensors
    #[arg(long, value_name = "LABEL", default_value_t, value_parser = one_of(Label::ALL, Label::as_str))]
    pub label: Label,

    /// Do not embed the watermark that `soragen detect` detects. A .safetensors never has one
    #[arg(long)]
    pub no_watermark: bool,

    /// File with the watermark key [default: the public key]
    #[arg(long, value_name = "FILE", conflicts_with = "no_watermark")]
    pub watermark_key: Option<PathBuf>,

    /// Strength of the watermark, 0.5 to 2: at 1 it is invisible, at 2 it survives a lower bit rate
    #[arg(long, value_name = "N", default_value_t = 1.0, conflicts_with = "no_watermark")]
    pub watermark_strength: f64,

    #[command(flatten)]
    pub signing: SigningArgs,

    /// Compute device: auto, cpu, cuda:N or metal
    #[arg(long, value_name = "D", default_value = "auto")]
    pub device: String,

    /// Data type of weights and arithmetic
    ///
    /// auto selects bf16 on a GPU, or gguf for a GGUF file. On a CPU it selects int8 for transformers of Wan's sizes if the
    /// CPU has AVX2, AVX-512 VNNI or NEON dot products, otherwise gguf for a GGUF file, otherwise f32. int8 computes the transformer's linear layers in 8 bits, in a quarter of the memory, on
    /// CPUs only. gguf keeps the transformer's weights quantized as in the file. bf16 and f16 are for GPUs.
    #[arg(long, value_name = "TYPE", default_value_t, value_parser = one_of(Precision::ALL, Precision::as_str))]
    pub precision: Precision,

    /// Video decoder
    ///
    /// full is the model's autoencoder. tiny is TAEHV (taew2_1.safetensors or taew2_2.safetensors in the model's folder).
    /// tiled is the model's autoencoder, one tile at a time, in less memory. auto selects tiny for causal models
    /// that have it, tiled if memory is short, and full otherwise.
    #[arg(long, value_name = "KIND", default_value_t, value_parser = one_of(Decoder::ALL, Decoder::as_str))]
    pub decoder: Decoder,

    /// Keep the transformer's blocks in their files and load each block when it is needed: slower, but needs little more
    /// memory than one block
    #[arg(long)]
    pub offload: bool,

    /// Number of CPU threads, at most the number of CPUs [default: one per core]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true,
          value_parser = clap::value_parser!(u16).range(..=1024))]
    pub threads: u16,

    #[command(flatten)]
    pub cache: CacheArgs,

    /// Initial noise instead of the seed's: one tensor `latents`, f32 [1, C, T, H, W]
    #[arg(long, value_name = "FILE.safetensors")]
    pub initial_latents: Option<PathBuf>,
}

/// Options for a signed C2PA manifest.
#[derive(clap::Args)]
pub struct SigningArgs {
    /// Sign a C2PA manifest (.mp4 and .mov) with this PEM file: the signer's certificate and its intermediates
    #[arg(long, value_name = "FILE")]
    pub certificate: Option<PathBuf>,

    /// Private key of the certificate: PEM, PKCS #8
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub private_key: Option<PathBuf>,

    /// Program that signs, instead of a private key: it reads the data from stdin and writes the signature to stdout
    #[arg(long, value_name = "COMMAND", requires = "certificate", conflicts_with = "private_key")]
    pub sign_command: Option<String>,

    /// Include the prompts in the manifest
    #[arg(long, requires = "certificate")]
    pub embed_prompt: bool,

    /// Operator of the generator, named in the manifest
    #[arg(long, value_name = "NAME", requires = "certificate")]
    pub provider: Option<String>,
}

impl SigningArgs {
    /// `None` if the file is not to be signed.
    pub fn options(&self) -> Option<SigningOptions> {
        let Self { certificate, private_key, sign_command, embed_prompt, provider } = self;
        Some(SigningOptions {
            certificate: certificate.clone()?,
            private_key: private_key.clone(),
            sign_command: sign_command.clone(),
            embed_prompt: *embed_prompt,
            provider: provider.clone(),
        })
    }
}

/// Parses an enum of the engine from its name, and lists all names in the help.
fn one_of<T>(all: &[T], name: fn(T) -> &'static str) -> impl TypedValueParser<Value = T> + use<T>
where
    T: FromStr<Err = soragen::Error> + Copy + Send + Sync + 'static,
{
    PossibleValuesParser::new(all.iter().map(|&value| name(value))).try_map(|text| text.parse::<T>())
}

fn size(text: &str) -> Result<Size, String> {
    text.split_once(['x', 'X', '×'])
        .and_then(|(width, height)| Some(Size { width: width.parse().ok()?, height: height.parse().ok()? }))
        .filter(|size| size.width > 0 && size.height > 0)
        .ok_or_else(|| "expected a width and a height in pixels, such as 832x480".into())
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|seconds: &f64| seconds.is_finite() && *seconds > 0.0)
        .ok_or_else(|| "expected a positive number of seconds, such as 4.5".into())
}
