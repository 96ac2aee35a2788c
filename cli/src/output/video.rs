//! Video files, encoded by GStreamer: for viewers, and for editors, which want frames that need no others.

use std::path::Path;

use gst::prelude::*;

use super::{About, PartialFile, Signed};
use crate::error::{Error, Result};

/// What the frames are put into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    Mp4,
    QuickTime,
    Matroska,
    WebM,
    Y4m,
}

/// How the frames are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Codec {
    /// H.264 High 4:2:0, which plays everywhere
    H264,
    /// H.264 whose every frame is a key frame, to be cut anywhere
    H264Intra,
    /// ProRes 422, 10 bits
    Prores,
    /// FFV1, lossless
    Ffv1,
    /// VP8
    Vp8,
    /// No compression
    Raw,
}

impl Container {
    pub fn of(extension: &str) -> Option<Self> {
        Some(match extension {
            "mp4" => Self::Mp4,
            "mov" => Self::QuickTime,
            "mkv" => Self::Matroska,
            "webm" => Self::WebM,
            "y4m" => Self::Y4m,
            _ => return None,
        })
    }

    /// What it can hold; the first is what it holds if nothing else is said.
    pub fn codecs(self) -> &'static [Codec] {
        match self {
            Self::Mp4 => &[Codec::H264, Codec::H264Intra],
            Self::QuickTime => &[Codec::Prores, Codec::H264, Codec::H264Intra],
            Self::Matroska => &[Codec::H264, Codec::H264Intra, Codec::Ffv1, Codec::Vp8],
            Self::WebM => &[Codec::Vp8],
            Self::Y4m => &[Codec::Raw],
        }
    }

    /// In gst-launch's language.
    fn muxer(self) -> &'static str {
        match self {
            Self::Mp4 => "mp4mux name=mux",
            Self::QuickTime => "qtmux name=mux",
            Self::Matroska => "matroskamux name=mux",
            Self::WebM => "webmmux name=mux",
            Self::Y4m => "y4menc",
        }
    }
}

impl Codec {
    /// The pixels it takes, and its encoder, in gst-launch's language.
    fn elements(self, cuts: bool) -> (&'static str, String) {
        let h264 = |options: &str| format!("x264enc{options} ! video/x-h264,profile=high ! h264parse");
        match self {
            // Without look-ahead where every cut is to have a key frame: until one has left the encoder, it takes no
            // order for another. Nor need it look for cuts.
            Self::H264 if cuts => ("I420", h264(" tune=zerolatency option-string=scenecut=0")),
            Self::H264 => ("I420", h264("")),
            Self::H264Intra => ("I420", h264(" key-int-max=1 pass=quant quantizer=16")),
            Self::Prores => ("I422_10LE", "avenc_prores".into()),
            Self::Ffv1 => ("I420", "avenc_ffv1 gop-size=1".into()),
            Self::Vp8 => ("I420", "vp8enc deadline=1 target-bitrate=2000000".into()),
            Self::Raw => ("I420", "identity".into()),
        }
    }
}

/// A pipeline that is stopped when it is dropped, so that it lets go of its file on every way out.
struct Running(gst::Pipeline);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}

pub struct Writer {
    // Dropped in this order: the pipeline lets go of the file before the file is removed.
    pipeline: Running,
    file: PartialFile,
    source: gst_app::AppSrc,
    info: gst_video::VideoInfo,
    written: u64,
    /// What a signature is put under, if there is one: model, and the mark's id.
    origin: Option<gst::Structure>,
}

impl Writer {
    pub fn new(path: &Path, container: Container, codec: Codec, about: &About) -> Result<Self> {
        let encode = |e: &dyn std::fmt::Display| Error::Encode(e.to_string());
        gst::init().map_err(|e| encode(&e))?;
        let file = PartialFile::new(path);
        let sink = match about.signed {
            Some(_) => {
                gstsoraprovenance::plugin_register_static().map_err(|e| encode(&e))?;
                "c2pasink"
            }
            None => "filesink",
        };

        // From RGB with the matrix that is signalled.
        let colorimetry = if about.size.is_high_definition() { "bt709" } else { "bt601" };
        let (format, encoder) = codec.elements(about.cuts);
        let description = format!(
            "appsrc name=source format=time block=true max-buffers=4 ! videoconvert ! \
             video/x-raw,format={format},colorimetry={colorimetry},chroma-site=mpeg2 ! {encoder} ! {} ! {sink} name=sink",
            container.muxer()
        );
        let pipeline = gst::parse::launch(&description)
            .map_err(|e| {
                Error::Encode(format!(
                    "{e}; are the base, good, ugly and libav plugins of GStreamer installed?"
                ))
            })?
            .downcast::<gst::Pipeline>()
            .map_err(|_| Error::Encode("not a pipeline".into()))?;
        let by_name = |name: &str| pipeline.by_name(name).ok_or_else(|| encode(&name));
        let sink = by_name("sink")?;
        sink.set_property("location", file.partial());
        if let Some(Signed { with, .. }) = &about.signed {
            sink.set_property("certificate", with.certificate.to_value());
            sink.set_property("private-key", with.private_key.to_value());
            sink.set_property("sign-command", &with.sign_command);
            sink.set_property("embed-prompt", with.embed_prompt);
            sink.set_property("provider", &with.provider);
        }
        if let Some(tags) = pipeline.by_name("mux").and_then(|mux| mux.dynamic_cast::<gst::TagSetter>().ok())
        {
            let encoder = concat!("soragen ", env!("CARGO_PKG_VERSION"));
            // The title is the prompt.
            if about.signed.as_ref().is_none_or(|signed| signed.with.embed_prompt) {
                tags.add_tag::<gst::tags::Title>(&about.title.as_str(), gst::TagMergeMode::Replace);
            }
            tags.add_tag::<gst::tags::ApplicationName>(&encoder, gst::TagMergeMode::Replace);
        }

        let (numerator, denominator) = about.frame_rate;
        let info =
            gst_video::VideoInfo::builder(gst_video::VideoFormat::Rgb, about.size.width, about.size.height)
                .fps(gst::Fraction::new(numerator as i32, denominator as i32))
                .build()
                .map_err(|e| encode(&e))?;
        let source = by_name("source")?
            .downcast::<gst_app::AppSrc>()
            .map_err(|_| Error::Encode("no appsrc".into()))?;
        source.set_caps(Some(&info.to_caps().map_err(|e| encode(&e))?));

        if let Some(bus) = pipeline.bus() {
            let source = source.downgrade();
            // Nobody takes frames any more then, and whoever waits for room would wait for ever.
            bus.set_sync_handler(move |_, message| {
                if let (gst::MessageType::Error, Some(source)) = (message.type_(), source.upgrade()) {
                    source.set_max_buffers(0);
                }
                gst::BusSyncReply::Pass
            });
        }
        let origin = about.signed.as_ref().map(origin);
        let writer = Self { pipeline: Running(pipeline), file, source, info, written: 0, origin };
        if writer.pipeline.0.set_state(gst::State::Playing).is_err() {
            return Err(writer.error());
        }
        Ok(writer)
    }

    /// What the pipeline says went wrong.
    fn error(&self) -> Error {
        let message = self.pipeline.0.bus().and_then(|bus| bus.pop_filtered(&[gst::MessageType::Error]));
        match message.as_ref().map(|m| m.view()) {
            Some(gst::MessageView::Error(e)) => Error::Encode(e.error().to_string()),
            _ => Error::Encode("the pipeline stopped".into()),
        }
    }

    fn timestamp(&self, frame: u64) -> Option<gst::ClockTime> {
        let fps = self.info.fps();
        let (numerator, denominator) = (fps.numer() as u64, fps.denom() as u64);
        frame
            .mul_div_floor(denominator * gst::ClockTime::SECOND.nseconds(), numerator)
            .map(gst::ClockTime::from_nseconds)
    }
}

/// What `c2pasink` hears of the element `soragen` in a pipeline, but for the prompt.
fn origin(signed: &Signed) -> gst::Structure {
    let mut origin = gst::Structure::builder(gstsoraprovenance::credentials::Origin::EVENT)
        .field("software", "soragen")
        .field("version", env!("CARGO_PKG_VERSION"))
        .field("model", signed.model.as_str())
        .build();
    if let Some(mark) = signed.mark {
        origin.set("generation-id", mark.get());
    }
    origin.set("images", gst::List::new(signed.images.clone()));
    origin
}

impl super::Writer for Writer {
    fn write(&mut self, frame: &[f32]) -> Result<()> {
        let row = self.info.width() as usize * 3;
        let stride = self.info.stride()[0] as usize;
        let mut bytes = vec![0; self.info.size()];
        for (to, from) in bytes.chunks_exact_mut(stride).zip(frame.chunks_exact(row)) {
            for (to, from) in to.iter_mut().zip(from) {
                *to = soragen::to_u8(*from);
            }
        }
        let mut buffer = gst::Buffer::from_mut_slice(bytes);
        let (start, end) = (self.timestamp(self.written), self.timestamp(self.written + 1));
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(start);
            buffer.set_duration(start.zip(end).map(|(start, end)| end - start));
        }
        self.source.push_buffer(buffer).map_err(|_| self.error())?;
        if self.source.max_buffers() == 0 {
            return Err(self.error());
        }
        self.written += 1;
        Ok(())
    }

    fn shot(&mut self, prompt: &str, cut: bool) {
        if let Some(mut origin) = self.origin.clone() {
            origin.set("prompt", prompt);
            self.source.send_event(gst::event::CustomDownstream::new(origin));
        }
        if !cut {
            return;
        }
        let time = self.timestamp(self.written);
        let event = gst_video::DownstreamForceKeyUnitEvent::builder()
            .timestamp(time)
            .stream_time(time)
            .all_headers(true)
            .build();
        self.source.send_event(event);
    }

    fn finish(self: Box<Self>) -> Result<bool> {
        if self.written == 0 {
            return Ok(false);
        }
        self.source.end_of_stream().map_err(|_| self.error())?;
        let bus = self.pipeline.0.bus().ok_or_else(|| Error::Encode("the pipeline has no bus".into()))?;
        let end = bus.timed_pop_filtered(None, &[gst::MessageType::Eos, gst::MessageType::Error]);
        if let Some(gst::MessageView::Error(e)) = end.as_ref().map(|m| m.view()) {
            return Err(Error::Encode(e.error().to_string()));
        }
        let Self { file, pipeline, .. } = *self;
        drop(pipeline);
        file.keep()?;
        Ok(true)
    }
}
