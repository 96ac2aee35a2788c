//! Video files, encoded by GStreamer.

use std::path::Path;

use gst::prelude::*;
use gstsoraprovenance::Destination;

use super::{OutputInfo, PartialFile};
use crate::error::{Error, Result};
use crate::signing::Signing;

/// The container format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    Mp4,
    QuickTime,
    Matroska,
    WebM,
    Y4m,
}

/// The video codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Codec {
    /// H.264 High 4:2:0, for playback
    H264,
    /// H.264 with only key frames, for editing
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
    pub fn from_extension(extension: &str) -> Option<Self> {
        Some(match extension {
            "mp4" => Self::Mp4,
            "mov" => Self::QuickTime,
            "mkv" => Self::Matroska,
            "webm" => Self::WebM,
            "y4m" => Self::Y4m,
            _ => return None,
        })
    }

    /// The container for a codec, where no name decides it.
    pub fn of_codec(codec: Codec) -> Self {
        match codec {
            Codec::H264 | Codec::H264Intra => Self::Mp4,
            Codec::Prores => Self::QuickTime,
            Codec::Ffv1 => Self::Matroska,
            Codec::Vp8 => Self::WebM,
            Codec::Raw => Self::Y4m,
        }
    }

    /// The output for `path`. Y4M has no sizes to fill in at the end. In a pipe Matroska has none either.
    fn file(self, path: &Path) -> Result<PartialFile> {
        match self {
            Self::Y4m => PartialFile::sequential(path),
            Self::Matroska | Self::WebM if Destination::of(path)?.is_fifo() => PartialFile::sequential(path),
            Self::Mp4 | Self::QuickTime | Self::Matroska | Self::WebM => PartialFile::new(path),
        }
    }

    /// The codecs that the container supports, the default first.
    pub fn codecs(self) -> &'static [Codec] {
        match self {
            Self::Mp4 => &[Codec::H264, Codec::H264Intra],
            Self::QuickTime => &[Codec::Prores, Codec::H264, Codec::H264Intra],
            Self::Matroska => &[Codec::H264, Codec::H264Intra, Codec::Ffv1, Codec::Vp8],
            Self::WebM => &[Codec::Vp8],
            Self::Y4m => &[Codec::Raw],
        }
    }

    /// The muxer, in gst-launch syntax.
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
    /// The pixel format and the encoder, in gst-launch syntax.
    fn elements(self, cuts: bool) -> (&'static str, String) {
        let h264 = |options: &str| format!("x264enc{options} ! video/x-h264,profile=high ! h264parse");
        match self {
            // x264enc ignores a key frame request while an earlier one is pending, so look-ahead is disabled if there are
            // cuts. Scene detection is not needed then.
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

/// Stops the pipeline on drop, so that it closes its file.
struct PipelineGuard(gst::Pipeline);

impl Drop for PipelineGuard {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}

pub struct Writer {
    // Field order is drop order: the pipeline closes the file before the file is removed.
    pipeline: PipelineGuard,
    file: PartialFile,
    source: gst_app::AppSrc,
    info: gst_video::VideoInfo,
    written: u64,
    /// The event that describes the video to `c2pasink`, if the file is signed.
    origin: Option<gst::Structure>,
}

impl Writer {
    pub fn new(path: &Path, container: Container, codec: Codec, output: &OutputInfo) -> Result<Self> {
        let encode = |e: &dyn std::fmt::Display| Error::Encode(e.to_string());
        gst::init().map_err(|e| encode(&e))?;
        let file = container.file(path)?;
        let sink = match output.signing {
            Some(_) => {
                gstsoraprovenance::plugin_register_static().map_err(|e| encode(&e))?;
                "c2pasink"
            }
            None => "filesink",
        };

        // The matrix for the conversion from RGB, which is also signalled in the file.
        let colorimetry = if output.size.is_high_definition() { "bt709" } else { "bt601" };
        let (format, encoder) = codec.elements(output.cuts);
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
        if file.is_direct() {
            // An open file keeps what was written to it before. Only `filesink` writes directly.
            sink.set_property("append", true);
        }
        if let Some(Signing { options, .. }) = &output.signing {
            sink.set_property("certificate", options.certificate.to_value());
            sink.set_property("private-key", options.private_key.to_value());
            sink.set_property("sign-command", &options.sign_command);
            sink.set_property("embed-prompt", options.embed_prompt);
            sink.set_property("provider", &options.provider);
        }
        if let Some(tags) = pipeline.by_name("mux").and_then(|mux| mux.dynamic_cast::<gst::TagSetter>().ok())
        {
            let encoder = concat!("soragen ", env!("CARGO_PKG_VERSION"));
            // The title is the prompt.
            if output.signing.as_ref().is_none_or(|signing| signing.options.embed_prompt) {
                tags.add_tag::<gst::tags::Title>(&output.title.as_str(), gst::TagMergeMode::Replace);
            }
            tags.add_tag::<gst::tags::ApplicationName>(&encoder, gst::TagMergeMode::Replace);
        }

        let (numerator, denominator) = output.frame_rate;
        let info =
            gst_video::VideoInfo::builder(gst_video::VideoFormat::Rgb, output.size.width, output.size.height)
                .fps(gst::Fraction::new(numerator as i32, denominator as i32))
                .build()
                .map_err(|e| encode(&e))?;
        let source = by_name("source")?
            .downcast::<gst_app::AppSrc>()
            .map_err(|_| Error::Encode("no appsrc".into()))?;
        source.set_caps(Some(&info.to_caps().map_err(|e| encode(&e))?));

        if let Some(bus) = pipeline.bus() {
            let source = source.downgrade();
            // After an error nothing empties the queue: without a limit, `push_buffer` does not block for ever.
            bus.set_sync_handler(move |_, message| {
                if let (gst::MessageType::Error, Some(source)) = (message.type_(), source.upgrade()) {
                    source.set_max_buffers(0);
                }
                gst::BusSyncReply::Pass
            });
        }
        let origin = output.signing.as_ref().map(origin);
        let writer = Self { pipeline: PipelineGuard(pipeline), file, source, info, written: 0, origin };
        if writer.pipeline.0.set_state(gst::State::Playing).is_err() {
            return Err(writer.error());
        }
        Ok(writer)
    }

    /// The error on the bus of the pipeline.
    fn error(&self) -> Error {
        let message = self.pipeline.0.bus().and_then(|bus| bus.pop_filtered(&[gst::MessageType::Error]));
        match message.as_ref().map(|m| m.view()) {
            Some(gst::MessageView::Error(e)) => Error::Encode(e.error().to_string()),
            _ => Error::Encode("the pipeline stopped without an error message".into()),
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

/// The event that the element `soragen` sends to `c2pasink`, without the prompt.
fn origin(signing: &Signing) -> gst::Structure {
    let mut origin = gst::Structure::builder(gstsoraprovenance::credentials::Origin::EVENT)
        .field("software", "soragen")
        .field("version", env!("CARGO_PKG_VERSION"))
        .field("model", signing.model.as_str())
        .build();
    if let Some(id) = signing.generation_id {
        origin.set("generation-id", id.get());
    }
    if signing.restyled {
        origin.set("restyled", true);
    }
    if let Some(ingredient) = &signing.ingredient {
        origin.set("ingredient", ingredient);
    }
    origin.set("images", gst::List::new(signing.images.clone()));
    origin
}

impl super::Writer for Writer {
    fn write(&mut self, frame: &[u8]) -> Result<()> {
        let row = self.info.width() as usize * 3;
        let stride = self.info.stride()[0] as usize;
        let mut bytes = vec![0; self.info.size()];
        for (to, from) in bytes.chunks_exact_mut(stride).zip(frame.chunks_exact(row)) {
            to[..row].copy_from_slice(from);
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
