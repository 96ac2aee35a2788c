//! What the command is told.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use soragen::Size;
use soragen::checkpoint::Lora;

use crate::output::Codec;

/// Video from text, or from an image and text
#[derive(Parser)]
#[command(name = "soragen", version)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Make a video file
    Render(Box<RenderArgs>),
    /// What models there are and what they can make
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Make safetensors of a PyTorch file; nothing in it is run
    Convert(ConvertArgs),
    /// What is kept of videos made before
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Tell whether a video is marked as generated: JSON on stdout, exit status 0 if it is, invisibly or by a manifest
    /// (C2PA) that holds, 3 if nothing says so
    Detect(DetectArgs),
    /// Make a key and certificates to try out signing with; nobody trusts them
    Certificate(CertificateArgs),
    /// Try out a policy, or check an audit log
    #[command(subcommand)]
    Policy(PolicyCommand),
}

#[derive(Subcommand)]
pub enum CacheCommand {
    /// How much there is
    List(CacheArgs),
    /// Remove it
    Clear(CacheArgs),
}

#[derive(clap::Args)]
pub struct CacheArgs {
    /// Where latents are kept, so that the same video is only decoded the next time, and what was read of prompts; "" is
    /// nowhere; if not given `soragen` in the user's cache folder
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<String>,
}

#[derive(Subcommand)]
pub enum ModelsCommand {
    /// The models that are on this machine: the built-in one, and those of the hub that were pulled
    List,
    /// Download a model of the hub, or what is newer of it there, into the cache of huggingface_hub (HF_HOME). What is
    /// there is not downloaded again; what was interrupted goes on
    Pull {
        /// hf:owner/name, or hf:owner/name@revision with a branch, a tag or a commit
        source: String,
    },
    /// What a model is and what it can make; its weights are not read
    Info {
        /// `builtin`, a folder in diffusers' or in Wan's own layout, a transformer in one file, or hf:owner/name
        source: String,
        #[command(flatten)]
        parts: PartsArgs,
    },
}

#[derive(clap::Args)]
pub struct PartsArgs {
    /// In the place of the model's transformer
    #[arg(long, value_name = "PATH")]
    pub transformer: Option<PathBuf>,

    /// In the place of the model's text encoder, with its tokenizer.json beside it
    #[arg(long, value_name = "PATH")]
    pub text_encoder: Option<PathBuf>,

    /// In the place of the model's autoencoder; TAEHV too
    #[arg(long, value_name = "PATH")]
    pub autoencoder: Option<PathBuf>,

    /// How a causal transformer makes its video: self-forcing, causal-forcing, causal-forcing-framewise, longlive, longlive-2, or a
    /// soragen.json; if not given the one beside the transformer
    #[arg(long, value_name = "NAME")]
    pub recipe: Option<String>,

    /// A LoRA for the transformer, and how much of it is added; high: or low: before it is for one of two transformers; may
    /// be given several times
    #[arg(long, value_name = "PATH[:SCALE]")]
    pub lora: Vec<String>,
}

impl From<&PartsArgs> for soragen::checkpoint::Parts {
    fn from(args: &PartsArgs) -> Self {
        let PartsArgs { transformer, text_encoder, autoencoder, recipe, lora } = args;
        Self {
            transformer: transformer.clone(),
            text_encoder: text_encoder.clone(),
            autoencoder: autoencoder.clone(),
            recipe: recipe.clone(),
            loras: lora.iter().map(|text| Lora::parse(text)).collect(),
        }
    }
}

#[derive(clap::Args)]
pub struct ConvertArgs {
    /// A PyTorch file: .pt, .pth, .ckpt, .bin
    pub from: PathBuf,

    /// The .safetensors to make
    pub to: PathBuf,

    /// Which of its objects has the weights; if not given generator_ema, generator and other usual ones are tried
    #[arg(long, value_name = "NAME")]
    pub key: Option<String>,

    /// What the tensors are to be called
    #[arg(long, value_enum, default_value_t)]
    pub names: Names,
}

/// What the tensors are to be called.
#[derive(Clone, Copy, Default, clap::ValueEnum)]
pub enum Names {
    /// As in the file
    #[default]
    Kept,
    /// As diffusers and transformers have them
    Diffusers,
    /// As Wan's own files have them
    Original,
}

impl From<Names> for soragen::checkpoint::Names {
    fn from(names: Names) -> Self {
        match names {
            Names::Kept => Self::Kept,
            Names::Diffusers => Self::Diffusers,
            Names::Original => Self::Original,
        }
    }
}

#[derive(Subcommand)]
pub enum PolicyCommand {
    /// What the policy says to each line of stdin; exit status 3 if one is refused
    Check {
        /// A TOML file, in place of the one that ships
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
    },
    /// Whether an audit log is as it was written
    Verify {
        /// The log; its head lies beside it
        log: PathBuf,
    },
}

#[derive(clap::Args)]
pub struct DetectArgs {
    /// A video file, of any kind that GStreamer reads
    pub file: PathBuf,

    /// A file with the key it was marked with, in place of the public one
    #[arg(long, value_name = "FILE")]
    pub watermark_key: Option<PathBuf>,

    /// A PEM file with the certificates of authorities whose signatures are trusted
    #[arg(long, value_name = "FILE")]
    pub trust_anchors: Option<PathBuf>,
}

#[derive(clap::Args)]
pub struct CertificateArgs {
    /// Where certificate.pem, private-key.pem and authority.pem go; those that are there are not replaced
    #[arg(default_value = ".")]
    pub folder: PathBuf,

    /// In whose name
    #[arg(long, value_name = "NAME", default_value = "soragen test")]
    pub organization: String,
}

#[derive(clap::Args)]
pub struct RenderArgs {
    /// What to show
    #[arg(required_unless_present = "storyboard")]
    pub prompt: Option<String>,

    /// Shots in place of the prompt: a file (TOML, SubRip, WebVTT), or as in
    /// "0:00 a cat wakes | 0:04 the cat runs | 0:08 (cut) snow falls | 0:12"
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    pub storyboard: Option<String>,

    /// Over how many chunks a new prompt gains weight before it has all, except at a cut
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub blend_chunks: u32,

    /// The file to make: .mp4, .mov, .mkv, .webm, .y4m, .png with a %05d in its name, or .safetensors with one
    /// tensor `frames`, f32 [T, H, W, 3] in [0, 1]
    #[arg(short, long, value_name = "OUT", default_value = "out.mp4")]
    pub output: PathBuf,

    /// How a video is encoded; if not given h264, in a .mov prores, in a .webm vp8. An editor cuts prores, ffv1 (.mkv) and
    /// h264-intra anywhere
    #[arg(long, value_name = "CODEC")]
    pub codec: Option<Codec>,

    /// Where to write the shots as a timeline for editors: OpenTimelineIO, a clip a shot
    #[arg(long, value_name = "FILE.otio")]
    pub timeline: Option<PathBuf>,

    /// `builtin`, a folder in diffusers' or in Wan's own layout, a transformer in one file (safetensors, GGUF), or
    /// hf:owner/name@revision, which is downloaded first
    #[arg(long, value_name = "SRC", default_value = "builtin")]
    pub model: String,

    #[command(flatten)]
    pub parts: PartsArgs,

    /// Size in pixels; if not given the model's own, or for a picture one of its shape
    #[arg(long, value_name = "WxH", value_parser = size)]
    pub size: Option<Size>,

    /// How many frames
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub frames: Option<u64>,

    /// How long, at the model's frame rate
    #[arg(long, value_name = "SECONDS", conflicts_with = "frames", allow_negative_numbers = true, value_parser = seconds)]
    pub duration: Option<f64>,

    /// Which of the possible videos
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// Denoising steps; the model's own if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: Option<u32>,

    /// Guidance scale; 1 is none; the model's own if not given
    #[arg(long, value_name = "G", allow_negative_numbers = true)]
    pub guidance: Option<f64>,

    /// Guidance scale of the second of two transformers (Wan 2.2 A14B); if not given that of the first
    #[arg(long, value_name = "G", allow_negative_numbers = true)]
    pub guidance_2: Option<f64>,

    /// Shift of the noise schedule; the model's own if not given
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub shift: Option<f64>,

    /// What not to show; the model's own if not given
    #[arg(long, value_name = "TEXT")]
    pub negative: Option<String>,

    /// The picture to start from; it is scaled to the size
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,

    /// A TOML file that says which prompts are refused, in place of the one that ships
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,

    /// A file to which every decision on a prompt is written
    #[arg(long, value_name = "FILE")]
    pub audit_log: Option<PathBuf>,

    /// What a viewer sees in the upper left corner, drawn into the frames (a .safetensors has no label)
    #[arg(long, value_enum, default_value_t)]
    pub label: Label,

    /// Do not mark the frames; otherwise `soragen detect` can tell them (a .safetensors has no mark)
    #[arg(long)]
    pub no_watermark: bool,

    /// A file with the key to mark with, in place of the public one
    #[arg(long, value_name = "FILE", conflicts_with = "no_watermark")]
    pub watermark_key: Option<PathBuf>,

    #[command(flatten)]
    pub signing: SigningArgs,

    /// auto, cpu, cuda:N or metal
    #[arg(long, value_name = "D", default_value = "auto")]
    pub device: String,

    /// Number format of the weights and of the arithmetic; int8 is for a CPU
    #[arg(long, value_enum, default_value_t)]
    pub precision: Precision,

    /// Which decoder makes the frames: the model's own, or a tiny one (taew2_1.safetensors or
    /// taew2_2.safetensors in the model's folder)
    #[arg(long, value_name = "KIND", default_value = "auto")]
    pub decoder: Decoder,

    /// Leave the transformer's blocks in their files and bring each to the device when it is its turn: slower, in little
    /// more memory than one of them takes
    #[arg(long)]
    pub offload: bool,

    /// How many threads compute [default: one for each core]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true,
          value_parser = clap::value_parser!(u16).range(..=1024))]
    pub threads: u16,

    #[command(flatten)]
    pub cache: CacheArgs,

    /// Noise to start from in place of the seed's: one tensor `latents`, f32 [1, C, T, H, W]
    #[arg(long, value_name = "FILE.safetensors")]
    pub initial_latents: Option<PathBuf>,
}

/// A signature under what a file says of itself; only .mp4 and .mov have one.
#[derive(Clone, clap::Args)]
pub struct SigningArgs {
    /// Sign what made the file (C2PA, .mp4 and .mov): a PEM file with the signer's certificate and those above it
    #[arg(long, value_name = "FILE")]
    pub certificate: Option<PathBuf>,

    /// The certificate's key: PEM, PKCS #8
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub private_key: Option<PathBuf>,

    /// In place of the key: a program that is given on stdin what is to be signed, and writes the signature to stdout
    #[arg(long, value_name = "COMMAND", requires = "certificate", conflicts_with = "private_key")]
    pub sign_command: Option<String>,

    /// Have the prompts in what is signed
    #[arg(long, requires = "certificate")]
    pub embed_prompt: bool,

    /// Who runs the generator, to be in what is signed
    #[arg(long, value_name = "NAME", requires = "certificate")]
    pub provider: Option<String>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Decoder {
    /// The tiny one for streaming, where there is one, else the model's own
    Auto,
    /// The model's own
    Full,
    /// TAEHV
    Tiny,
    /// The model's own, a part of the picture at a time
    Tiled,
}

impl From<Decoder> for soragen::Decoder {
    fn from(decoder: Decoder) -> Self {
        match decoder {
            Decoder::Auto => Self::Auto,
            Decoder::Full => Self::Full,
            Decoder::Tiny => Self::Tiny,
            Decoder::Tiled => Self::Tiled,
        }
    }
}

/// What a viewer sees that it was generated by.
#[derive(Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Label {
    /// Nothing
    #[default]
    None,
    /// The letters AI
    Ai,
    /// AI GENERATED, larger for two seconds
    AiGenerated,
    /// AI生成, larger for two seconds
    Cn,
}

impl From<Label> for soragen::label::Label {
    fn from(label: Label) -> Self {
        match label {
            Label::None => Self::None,
            Label::Ai => Self::Ai,
            Label::AiGenerated => Self::AiGenerated,
            Label::Cn => Self::Cn,
        }
    }
}

/// The number format of the weights and of the arithmetic.
#[derive(Clone, Copy, Default, clap::ValueEnum)]
pub enum Precision {
    /// On a CPU f32, or int8 where the transformer is wide and the CPU quick at it; on a GPU bf16, or gguf where the file
    /// is one
    #[default]
    Auto,
    /// 32-bit
    F32,
    /// 16-bit with the range of 32-bit numbers
    Bf16,
    /// 16-bit
    F16,
    /// 8-bit products in the transformer, in a quarter of the memory
    Int8,
    /// The transformer's weights as a GGUF file has them
    Gguf,
}

impl From<Precision> for soragen::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Auto => Self::Auto,
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::Bf16,
            Precision::F16 => Self::F16,
            Precision::Int8 => Self::Int8,
            Precision::Gguf => Self::Gguf,
        }
    }
}

fn size(text: &str) -> Result<Size, String> {
    text.split_once(['x', 'X', '×'])
        .and_then(|(width, height)| Some(Size { width: width.parse().ok()?, height: height.parse().ok()? }))
        .filter(|size| size.width > 0 && size.height > 0)
        .ok_or_else(|| "two numbers of pixels are needed, as in 832x480".into())
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|seconds: &f64| seconds.is_finite() && *seconds > 0.0)
        .ok_or_else(|| "a positive number of seconds is needed, as in 4.5".into())
}
