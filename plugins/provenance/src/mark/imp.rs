// SPDX-License-Identifier: MPL-2.0

use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::subclass::prelude::*;
use gst_video::prelude::*;
use gst_video::subclass::prelude::*;
use gst_video::{VideoFormat, VideoFrameRef};
use soragen::watermark::{Embedder, GenerationId, Plane, STRENGTHS};

/// Packed RGB formats, which the watermark can be embedded in directly.
const RGB_FORMATS: [VideoFormat; 6] = [
    VideoFormat::Rgb,
    VideoFormat::Bgr,
    VideoFormat::Rgbx,
    VideoFormat::Bgrx,
    VideoFormat::Rgba,
    VideoFormat::Bgra,
];

#[derive(Clone)]
struct Settings {
    id: u64,
    key: Option<String>,
    strength: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { id: 0, key: None, strength: 1.0 }
    }
}

#[derive(Default)]
pub struct SoraMark {
    settings: Mutex<Settings>,
    embedder: Mutex<Option<Embedder>>,
    /// Number of frames since the start, for frames without a timestamp.
    frames: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[glib::object_subclass]
impl ObjectSubclass for SoraMark {
    const NAME: &'static str = "GstSoraMark";
    type Type = super::SoraMark;
    type ParentType = gst_video::VideoFilter;
}

impl ObjectImpl for SoraMark {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            vec![
                glib::ParamSpecUInt64::builder("generation-id")
                    .nick("Generation id")
                    .blurb("Id in the watermark, 40 bits (0 = random; read it while the element runs)")
                    .maximum((1 << 40) - 1)
                    .mutable_ready()
                    .build(),
                crate::key_property(),
                glib::ParamSpecDouble::builder("watermark-strength")
                    .nick("Watermark strength")
                    .blurb("Strength of the watermark relative to the default, at which it is invisible (default: 1)")
                    .minimum(*STRENGTHS.start())
                    .maximum(*STRENGTHS.end())
                    .default_value(Settings::default().strength)
                    .mutable_ready()
                    .build(),
            ]
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let mut settings = lock(&self.settings);
        match pspec.name() {
            "generation-id" => settings.id = value.get().unwrap_or_default(),
            "watermark-key" => settings.key = crate::key_path(value),
            "watermark-strength" => settings.strength = value.get().unwrap_or(1.0),
            _ => unreachable!("GObject knows the properties"),
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        let settings = lock(&self.settings);
        match pspec.name() {
            "generation-id" => {
                lock(&self.embedder).as_ref().map_or(settings.id, |embedder| embedder.id().get()).to_value()
            }
            "watermark-key" => settings.key.to_value(),
            "watermark-strength" => settings.strength.to_value(),
            _ => unreachable!("GObject knows the properties"),
        }
    }
}

impl GstObjectImpl for SoraMark {}

impl ElementImpl for SoraMark {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Watermark embedder",
                "Filter/Effect/Video",
                "Embeds an invisible watermark that soradetect detects",
                env!("CARGO_PKG_AUTHORS"),
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> =
            LazyLock::new(|| crate::templates(crate::LUMA_FORMATS.into_iter().chain(RGB_FORMATS)));
        &TEMPLATES
    }
}

impl BaseTransformImpl for SoraMark {
    const MODE: gst_base::subclass::BaseTransformMode = gst_base::subclass::BaseTransformMode::AlwaysInPlace;
    const PASSTHROUGH_ON_SAME_CAPS: bool = false;
    const TRANSFORM_IP_ON_PASSTHROUGH: bool = false;

    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let Settings { id, key, strength } = lock(&self.settings).clone();
        let id = match id {
            // `RandomState` is seeded by the operating system.
            0 => std::hash::RandomState::new().build_hasher().finish(),
            id => id,
        };
        let key = crate::load_key(key.as_deref())?;
        *lock(&self.embedder) = Some(Embedder::new(&key, GenerationId::new(id), strength));
        self.frames.store(0, Ordering::Relaxed);
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        lock(&self.embedder).take();
        Ok(())
    }
}

impl VideoFilterImpl for SoraMark {
    fn transform_frame_ip(
        &self,
        frame: &mut VideoFrameRef<&mut gst::BufferRef>,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let embedder = lock(&self.embedder).clone().ok_or(gst::FlowError::Flushing)?;
        let (width, height) = (frame.width() as usize, frame.height() as usize);
        let number = self.frames.fetch_add(1, Ordering::Relaxed);
        let time = crate::frame_time(frame.buffer(), number, frame.info());
        let stride = usize::try_from(frame.plane_stride()[0]).map_err(|_| gst::FlowError::NotNegotiated)?;
        let step = usize::try_from(frame.format_info().pixel_stride()[0])
            .map_err(|_| gst::FlowError::NotNegotiated)?;
        let data = frame.plane_data_mut(0).map_err(|_| gst::FlowError::Error)?;
        embedder.embed(&mut Plane { data, stride, step, width, height }, 0, time);
        Ok(gst::FlowSuccess::Ok)
    }
}
