//! An opened model: its parts, its defaults, what it can make.

mod experts;
mod info;
mod layout;
mod memory;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use candle_core::{DType, Device};
use once_cell::sync::{Lazy, OnceCell};

pub(crate) use experts::{Expert, Experts};
pub use info::{ModelInfo, Sizes};
pub(crate) use layout::{Causal, FirstFrame, Prediction, Sampler};
pub use memory::{PartSize, part_sizes, weights_bytes};

use crate::autoencoder::{Autoencoder, Decoder};
use crate::checkpoint::{Parts, Source};
use crate::digest::Digest;
use crate::scheduler::SchedulerConfig;
use crate::text::{self, TextEncoder};
use crate::transformer::WanTransformer;
use crate::{Error, Precision, Result, device};
use layout::Layout;

/// How to open a model.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// `auto`, `cpu`, `cuda:N` or `metal`.
    pub device: String,
    /// Number format.
    pub precision: Precision,
    /// Which decoder makes the frames.
    pub decoder: Decoder,
    /// Whether the transformer's blocks stay in their files, each brought to the device when it is its turn: slower, in
    /// little more memory than one of them takes. The frames are the same.
    pub offload: bool,
    /// Files in the place of the model's own parts.
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

/// An opened model, shared by whoever uses it.
pub struct Model {
    pub(crate) info: ModelInfo,
    pub(crate) device: Device,
    precision: Precision,
    pub(crate) text: TextEncoder,
    pub(crate) autoencoder: Autoencoder,
    pub(crate) sampling: Sampling,
    /// Bytes of this machine's memory that are left beside its weights, where that is known. Not those that happen to be
    /// free: what is made must not depend on them.
    pub(crate) room: Option<u64>,
    source: Source,
    digest: OnceCell<Option<Digest>>,
}

/// How its video is made.
pub(crate) enum Sampling {
    /// In one piece.
    Whole(SchedulerConfig, Arc<Experts>),
    /// Chunk by chunk.
    Causal(Box<Causal>, Arc<WanTransformer>),
}

/// What makes two opened models the same: where from, which device, which format, which decoder, where its blocks are.
type Identity = (Source, candle_core::DeviceLocation, Precision, Decoder, bool);

/// A model that is, or was, open; locked while it is being opened.
type Slot = Arc<Mutex<Weak<Model>>>;

/// The models that somebody holds, and those being opened: whoever wants the same waits for it.
static OPEN: Lazy<Mutex<HashMap<Identity, Slot>>> = Lazy::new(Mutex::default);

impl Model {
    /// Opens `source`: `builtin`, a folder in diffusers' or Wan's own layout, or a file with a transformer whose companions
    /// [`OpenOptions::parts`] names. A model that is open already with the same options is shared, not loaded again.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound) for a model or file that is not there,
    /// [`Error::Invalid`](crate::Error::Invalid) for a file that cannot be used,
    /// [`Error::Device`](crate::Error::Device) for a device that cannot,
    /// [`Error::Memory`](crate::Error::Memory) for more than is free.
    pub fn open(source: &str, options: &OpenOptions) -> Result<Arc<Self>> {
        let source = Source::parse(source, &options.parts)?;
        let device = device::parse(&options.device)?;
        let precision = device::resolve(options.precision, &device, || memory::form(&source))?;

        let slot = {
            let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
            open.retain(|_, slot| {
                Arc::strong_count(slot) > 1 || slot.lock().is_ok_and(|m| m.strong_count() > 0)
            });
            let OpenOptions { decoder, offload, .. } = *options;
            open.entry((source.clone(), device.location(), precision, decoder, offload)).or_default().clone()
        };
        let mut model = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = model.upgrade() {
            return Ok(model);
        }
        let opened = Arc::new(Self::load(&source, device, precision, options)?);
        *model = Arc::downgrade(&opened);
        Ok(opened)
    }

    fn load(source: &Source, device: Device, precision: Precision, options: &OpenOptions) -> Result<Self> {
        let OpenOptions { decoder, offload, .. } = *options;
        let dtype = precision.dtype(&device);
        let layout = Layout::read(source)?;
        let info = ModelInfo::of(source, &layout)?;
        let two = matches!(&layout, Layout::Wan(index) if index.two());
        if !two && source.loras().iter().any(|lora| lora.noise.is_some()) {
            return Err(Error::Request(
                crate::Setting::Lora,
                "`high:` and `low:` before a LoRA are for a model of two transformers".into(),
            ));
        }
        // First what does not fit is refused.
        let room = memory::room(source, precision, offload, &device)?;
        let (max_tokens, streaming) = match &layout {
            Layout::Wan(_) => (text::MAX_TOKENS, false),
            Layout::Causal(model) => (model.max_text_tokens, true),
        };
        Ok(Self {
            info,
            text: TextEncoder::open(source, max_tokens, dtype, &device, &crate::Cancel::new())?,
            sampling: match layout {
                Layout::Wan(index) => {
                    let scheduler = SchedulerConfig::read(source)?;
                    let boundary = index.boundary(&scheduler);
                    let experts = Experts::open(source, boundary, precision, offload, &device)?;
                    Sampling::Whole(scheduler, Arc::new(experts))
                }
                Layout::Causal(model) => {
                    let transformer =
                        WanTransformer::open(source, experts::FIRST, precision, offload, &device)?;
                    Sampling::Causal(Box::new(model.causal), Arc::new(transformer))
                }
            },
            autoencoder: Autoencoder::open(source, decoder, streaming, dtype, &device)?,
            room,
            source: source.clone(),
            digest: OnceCell::new(),
            device,
            precision,
        })
    }

    /// What stands for the model, its number format and its device in the keys of what it makes; `None` if its
    /// files cannot be read any more.
    pub(crate) fn key(&self) -> Option<Digest> {
        *self.digest.get_or_init(|| {
            let model = self.source.digest(&[]).ok()?;
            let (device, precision) =
                (format!("{:?}", self.device.location()), format!("{:?}", self.precision));
            Some(
                Digest::engine()
                    .with("model", model.hex().as_bytes())
                    .with("device", device.as_bytes())
                    .with("precision", precision.as_bytes()),
            )
        })
    }

    /// What its tensors are made of.
    pub(crate) fn dtype(&self) -> DType {
        self.precision.dtype(&self.device)
    }

    /// What it is and what it can make.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("info", &self.info)
            .field("precision", &self.precision)
            .finish_non_exhaustive()
    }
}
