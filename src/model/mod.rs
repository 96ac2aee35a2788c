//! An opened model: its parts, abilities and default values.

mod causal;
mod experts;
mod family;
mod index;
mod info;
mod memory;
mod pacing;
mod sizes;
mod wan;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use candle_core::{DType, Device};
use once_cell::sync::{Lazy, OnceCell};

use crate::autoencoder::{Autoencoder, Decoder};
use crate::cancel::CancellableMutex;
use crate::checkpoint::{Parts, Source};
use crate::digest::Digest;
use crate::image_encoder::ImageEncoder;
use crate::scheduler::SchedulerConfig;
use crate::testing::{self, Event};
use crate::text::{self, TextEncoder};
use crate::transformer::WanTransformer;
use crate::world::World;
use crate::{Cancel, Error, Precision, Result, Setting, device, kernels, transformer};
pub(crate) use causal::{CausalConfig, FirstFrame};
pub(crate) use experts::{Expert, Experts};
pub use info::ModelInfo;
pub use memory::{PartSize, part_sizes, weights_bytes};
pub(crate) use pacing::Pacing;
use pacing::PacingConfig;
pub use sizes::Sizes;

/// How to open a model.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OpenOptions {
    /// `auto`, `cpu`, `cuda:N` or `metal`.
    pub device: String,
    /// Data type of the weights and of the arithmetic.
    pub precision: Precision,
    /// Decoder of the frames.
    pub decoder: Decoder,
    /// Whether the transformer's blocks stay in their files and each is loaded when it is used: slower, in little more memory
    /// than one block. The frames are the same.
    pub offload: bool,
    /// Files in place of the model's own parts.
    pub parts: Parts,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            device: "auto".into(),
            precision: Precision::Auto,
            decoder: Decoder::Auto,
            offload: false,
            parts: Parts::default(),
        }
    }
}

/// An opened model, shared by all its users.
pub struct Model {
    pub(crate) info: ModelInfo,
    pub(crate) device: Device,
    precision: Precision,
    pub(crate) text: TextEncoder,
    pub(crate) autoencoder: Autoencoder,
    /// Of a model that reads images with its prompt.
    pub(crate) image_encoder: Option<ImageEncoder>,
    pub(crate) pacing: Pacing,
    /// Bytes of memory that this machine has besides the weights, if known. Total memory counts, not free memory: the frames
    /// must not depend on what other programs use.
    pub(crate) memory_headroom: Option<u64>,
    pub(crate) source: Source,
    world: Option<World>,
    notes: Vec<String>,
    digest: OnceCell<Option<Digest>>,
    /// Of the files as they are when the model is first used, since its weights stay in memory.
    maker: OnceCell<Digest>,
}

/// Identifies an opened model: source, device, precision, decoder, offload.
type ModelKey = (Source, candle_core::DeviceLocation, Precision, Decoder, bool);

/// An open or closed model; locked while it is loaded.
type Slot = Arc<CancellableMutex<Weak<Model>>>;

/// The models that are open or being loaded. A second caller for the same model waits for the first.
static OPEN: Lazy<Mutex<HashMap<ModelKey, Slot>>> = Lazy::new(Mutex::default);

impl Model {
    /// Opens `source`: `builtin`, a folder in diffusers' or Wan's own layout, a transformer in one file with companions in
    /// [`OpenOptions::parts`], or `hf:owner/name`. A model that is already open with the same options is shared.
    ///
    /// Returns within one tensor of a `cancel`.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a missing model or file, [`Error::Invalid`] for a file that cannot be used,
    /// [`Error::Device`] for a device that cannot be used, [`Error::Memory`] for weights that do not fit,
    /// [`Error::Cancelled`].
    pub fn open(source: &str, options: &OpenOptions, cancel: &Cancel) -> Result<Arc<Self>> {
        let source = Source::parse(source, &options.parts)?;
        let device = device::parse(&options.device)?;
        let precision = device::resolve(options.precision, &device, || memory::transformer_shape(&source))?;

        let slot = {
            let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
            // Another thread holds a slot while it loads the model.
            open.retain(|_, slot| {
                Arc::strong_count(slot) > 1 || slot.try_lock().is_none_or(|model| model.strong_count() > 0)
            });
            let OpenOptions { decoder, offload, .. } = *options;
            open.entry((source.clone(), device.location(), precision, decoder, offload)).or_default().clone()
        };
        let mut model = slot.lock(cancel)?;
        if let Some(model) = model.upgrade() {
            return Ok(model);
        }
        let loaded = Self::load(&source, device, precision, options, cancel);
        // candle may return a cancel as another error.
        cancel.check()?;
        let loaded = Arc::new(loaded?);
        *model = Arc::downgrade(&loaded);
        Ok(loaded)
    }

    fn load(
        source: &Source,
        device: Device,
        precision: Precision,
        options: &OpenOptions,
        cancel: &Cancel,
    ) -> Result<Self> {
        let OpenOptions { decoder, offload, .. } = *options;
        let dtype = precision.dtype(&device);
        let config = PacingConfig::read(source)?;
        let info = config.info(source)?;
        if !config.has_two_transformers() && source.loras().iter().any(|lora| lora.expert.is_some()) {
            return Err(Error::Request(
                Setting::Lora,
                "`high:` and `low:` before a LoRA are for a model with two transformers".into(),
            ));
        }
        // Refuse weights that do not fit before any is loaded.
        let memory_headroom = memory::headroom(source, precision, offload, &device)?;
        let notes = experts::lora_notes(source, config.has_two_transformers())?;
        let max_tokens = match &config {
            PacingConfig::Clip(_) => text::MAX_TOKENS,
            PacingConfig::Causal(model) => model.max_text_tokens,
        };
        let world = match &config {
            PacingConfig::Clip(_) => None,
            PacingConfig::Causal(model) => model.world(source)?,
        };
        let streaming = config.is_streaming();
        Ok(Self {
            info,
            text: TextEncoder::open(source, max_tokens, dtype, &device, cancel)?,
            pacing: match config {
                PacingConfig::Clip(index) => {
                    let scheduler = SchedulerConfig::read(source)?;
                    let boundary = index.boundary(&scheduler);
                    let experts = Experts::open(source, boundary, precision, offload, &device, cancel)?;
                    Pacing::Clip { scheduler, experts: Arc::new(experts) }
                }
                PacingConfig::Causal(model) => {
                    let folder = experts::FIRST;
                    let transformer =
                        WanTransformer::open(source, folder, precision, offload, &device, cancel)?;
                    Pacing::Causal { config: Arc::new(model.causal), transformer: Arc::new(transformer) }
                }
            },
            image_encoder: open_image_encoder(source, &device)?,
            autoencoder: Autoencoder::open(source, decoder, streaming, dtype, &device, cancel)?,
            memory_headroom,
            world,
            source: source.clone(),
            notes,
            digest: OnceCell::new(),
            maker: OnceCell::new(),
            device,
            precision,
        })
    }

    /// Identifies the model in cache keys; `None` if its files can no longer be read.
    pub(crate) fn key(&self) -> Option<Digest> {
        *self.digest.get_or_init(|| {
            let model = self.source.digest(&[]).ok()?;
            Some(Digest::engine().with("model", model.hex().as_bytes()))
        })
    }

    /// Identifies what rounds the values of this model: device kind, precision and kernels, and the files on this machine.
    pub(crate) fn maker(&self) -> Digest {
        *self.maker.get_or_init(|| self.new_maker())
    }

    fn new_maker(&self) -> Digest {
        let device = match self.device {
            Device::Cpu => "cpu",
            Device::Cuda(_) => "cuda",
            Device::Metal(_) => "metal",
        };
        let kernels = kernels::arch(self.dtype(), &self.device).map_or("plain", kernels::Arch::name);
        Digest::new("maker")
            .with("on", std::env::consts::ARCH.as_bytes())
            .with("device", device.as_bytes())
            .with("precision", self.precision.as_str().as_bytes())
            .with("kernels", kernels.as_bytes())
            .with("files", self.source.stamp().map_or_else(|_| String::new(), |stamp| stamp.hex()).as_bytes())
    }

    /// The data type of its tensors.
    pub(crate) fn dtype(&self) -> DType {
        self.precision.dtype(&self.device)
    }

    /// What a model with references was trained on; `None` for a model without them.
    pub(crate) fn world(&self) -> Option<&World> {
        self.world.as_ref()
    }

    /// Rows and columns of alpha values in a latent of a reference.
    pub(crate) fn reference_alpha(&self) -> [usize; 2] {
        self.transformer_config().and_then(|config| config.reference_alpha).unwrap_or([1, 1])
    }

    fn transformer_config(&self) -> Option<&transformer::Config> {
        match &self.pacing {
            Pacing::Causal { transformer, .. } => Some(transformer.config()),
            Pacing::Clip { .. } => None,
        }
    }

    /// Calls the hook of a test at `event`.
    pub(crate) fn test_event(&self, event: Event, cancel: &Cancel) -> Result<()> {
        testing::call(&self.source, event, cancel)
    }

    /// What a user should know about the files of the model, for example that a part of a LoRA is not applied.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Its abilities and default values.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }
}

/// The image encoder, if the transformer reads its tokens.
fn open_image_encoder(source: &Source, device: &Device) -> Result<Option<ImageEncoder>> {
    let transformer = WanTransformer::config_of(source, experts::FIRST)?;
    let Some(width) = transformer.image_dim else { return Ok(None) };
    let encoder = ImageEncoder::open(source, device)?;
    let config = encoder.config();
    let images = if transformer.pos_embed_seq_len.is_some() { 2 } else { 1 };
    let tokens = images * config.tokens();
    if config.hidden_size != width || transformer.pos_embed_seq_len.is_some_and(|count| count != tokens) {
        let reason = format!(
            "hidden_size is {} and {images} images have {tokens} tokens; the transformer takes a width of {width} and {:?} tokens",
            config.hidden_size, transformer.pos_embed_seq_len
        );
        return Err(source.invalid("image_encoder/config.json", reason));
    }
    Ok(Some(encoder))
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("info", &self.info)
            .field("precision", &self.precision)
            .finish_non_exhaustive()
    }
}
