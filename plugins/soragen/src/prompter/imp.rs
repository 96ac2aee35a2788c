// SPDX-License-Identifier: MPL-2.0

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use soragen::{RgbImage, Shot, Transition, storyboard};

use super::frames::Frames;
use crate::source::{PROMPT_CHECK, SoraGen};

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("soraprompt", gst::DebugColorFlags::empty(), Some("Video from timed text"))
});

/// What has come in.
#[derive(Default)]
struct Text {
    segment: gst::FormattedSegment<gst::ClockTime>,
    /// Whether it is Pango's markup, which a subtitle parser puts around what the subtitles say.
    markup: bool,
    any: bool,
    /// When the last text ends.
    end: Duration,
}

pub struct SoraPrompt {
    source: SoraGen,
    sink: gst::Pad,
    src: gst::GhostPad,
    text: Mutex<Text>,
    /// Of the pad `video`, if somebody has asked for it.
    video: Mutex<Option<gst::Pad>>,
    frames: Frames,
}

impl SoraPrompt {
    fn text(&self) -> MutexGuard<'_, Text> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chain(&self, buffer: &gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let readable = buffer.map_readable().map_err(|_| gst::FlowError::Error)?;
        let words = String::from_utf8_lossy(&readable);
        let mut text = self.text();
        let words = words.trim_end_matches('\0');
        let (transition, prompt) = match text.markup {
            true => storyboard::cue(&storyboard::plain(words)),
            false => storyboard::cue(words),
        };
        let running = |time: Option<gst::ClockTime>| text.segment.to_running_time(time).map(Duration::from);
        let Some(start) = running(buffer.pts()) else {
            gst::debug!(CAT, imp = self, "a text outside its segment: {prompt:?}");
            return Ok(gst::FlowSuccess::Ok);
        };
        let until = start + buffer.duration().map(Duration::from).unwrap_or_default();
        text.end = text.end.max(until);
        // There is nothing to show before the first, which begins the video.
        let first = !std::mem::replace(&mut text.any, true);
        drop(text);
        gst::debug!(CAT, imp = self, "{start:?}: {transition:?} {prompt:?}");
        self.frames.advance(start);
        let image = match first || transition == Transition::Cut {
            true => self.image_at(start)?,
            false => None,
        };
        let start = if first { Duration::ZERO } else { start };
        self.source.add_shot(Shot { start, prompt, seed: None, image, transition });
        Ok(gst::FlowSuccess::Ok)
    }

    /// What the pad `video` shows at `time`, if it is linked.
    fn image_at(&self, time: Duration) -> Result<Option<RgbImage>, gst::FlowError> {
        let video = self.video.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !video.is_some_and(|pad| pad.is_linked()) {
            return Ok(None);
        }
        let image = self.frames.at(time);
        match image {
            Ok(None) => gst::warning!(CAT, imp = self, "no frame came on the video pad; starting from noise"),
            Err(gst::FlowError::NotNegotiated) => gst::element_imp_error!(
                self,
                gst::StreamError::Format,
                ("the frame that a shot is to start from cannot be turned into RGB")
            ),
            _ => {}
        }
        image
    }

    fn video_event(&self, pad: &gst::Pad, event: &gst::Event) -> bool {
        match event.view() {
            gst::EventView::Caps(event) => return self.frames.set_caps(event.caps()),
            gst::EventView::Segment(event) => {
                let Ok(segment) = event.segment().clone().downcast::<gst::ClockTime>() else {
                    gst::element_imp_error!(self, gst::StreamError::Format, ("the video has no times"));
                    return false;
                };
                self.frames.set_segment(segment);
            }
            gst::EventView::FlushStart(_) => self.frames.flush_start(),
            gst::EventView::FlushStop(_) => self.frames.flush_stop(),
            gst::EventView::Eos(_) => self.frames.end(),
            _ => {}
        }
        gst::trace!(CAT, obj = pad, "{event:?}");
        true
    }

    /// All that happens to the text ends here: the video has events of its own.
    fn event(&self, event: &gst::Event) -> bool {
        match event.view() {
            gst::EventView::Caps(event) => {
                let format = event.caps().structure(0).and_then(|caps| caps.get::<&str>("format").ok());
                self.text().markup = format == Some("pango-markup");
            }
            gst::EventView::Segment(event) => {
                let Ok(segment) = event.segment().clone().downcast::<gst::ClockTime>() else {
                    gst::element_imp_error!(self, gst::StreamError::Format, ("the text has no times"));
                    return false;
                };
                self.text().segment = segment;
            }
            gst::EventView::Gap(gap) => {
                let (start, duration) = gap.get();
                let text = self.text();
                if let Some(until) = text.segment.to_running_time(start + duration.unwrap_or_default()) {
                    drop(text);
                    self.frames.advance(until.into());
                    self.source.set_known(until.into());
                }
            }
            gst::EventView::Eos(_) => {
                let end = self.text().end;
                self.frames.end_texts();
                self.source.finish(end);
            }
            _ => {}
        }
        true
    }
}

#[glib::object_subclass]
impl ObjectSubclass for SoraPrompt {
    const NAME: &'static str = "GstSoraPrompt";
    type Type = super::SoraPrompt;
    type ParentType = gst::Bin;

    fn with_class(class: &Self::Class) -> Self {
        let template = |name: &str| {
            class.pad_template(name).unwrap_or_else(|| unreachable!("the class has the template {name}"))
        };
        let sink = gst::Pad::builder_from_template(&template("text"))
            .chain_function(|_, parent, buffer| {
                let failed = || Err(gst::FlowError::Error);
                Self::catch_panic_pad_function(parent, failed, |this| this.chain(&buffer))
            })
            .event_function(|_, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |this| this.event(&event))
            })
            .build();
        let src = gst::GhostPad::builder_from_template(&template("src")).build();
        Self {
            source: SoraGen::open("soragen"),
            sink,
            src,
            text: Mutex::default(),
            video: Mutex::default(),
            frames: Frames::default(),
        }
    }
}

impl ObjectImpl for SoraPrompt {
    fn signals() -> &'static [glib::subclass::Signal] {
        static SIGNALS: LazyLock<Vec<glib::subclass::Signal>> =
            LazyLock::new(|| vec![crate::source::prompt_check()]);
        &SIGNALS
    }

    fn constructed(&self) {
        self.parent_constructed();
        let bin = self.obj();
        let build = || -> Result<(), glib::BoolError> {
            bin.add(&self.source)?;
            let target = self.source.static_pad("src").ok_or_else(|| glib::bool_error!("no pad"))?;
            self.src.set_target(Some(&target))?;
            bin.add_pad(&self.sink)?;
            bin.add_pad(&self.src)
        };
        if let Err(error) = build() {
            gst::error!(CAT, imp = self, "{error}");
        }
        let asked = bin.downgrade();
        self.source.connect(PROMPT_CHECK, false, move |args| {
            let prompt = args[1].get::<String>().unwrap_or_default();
            let may = asked.upgrade().is_some_and(|bin| bin.emit_by_name(PROMPT_CHECK, &[&prompt]));
            Some(may.to_value())
        });
        bin.set_element_flags(gst::ElementFlags::SOURCE);
    }
}

impl GstObjectImpl for SoraPrompt {}

impl ElementImpl for SoraPrompt {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Video from timed text",
                "Converter/Text/Video",
                "Makes video of the texts that come in, each from its time on, by a diffusion model that runs in-process",
                env!("CARGO_PKG_AUTHORS"),
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let text = gst::Caps::builder("text/x-raw")
                .field("format", gst::List::new(["utf8", "pango-markup"]))
                .build();
            let video = gst_video::VideoCapsBuilder::new().format_list(crate::source::FORMATS).build();
            let always = gst::PadPresence::Always;
            let any = gst_video::VideoCapsBuilder::new().build();
            [
                gst::PadTemplate::new("text", gst::PadDirection::Sink, always, &text),
                gst::PadTemplate::new("video", gst::PadDirection::Sink, gst::PadPresence::Request, &any),
                gst::PadTemplate::new("src", gst::PadDirection::Src, always, &video),
            ]
            .into_iter()
            .flatten()
            .collect()
        });
        &TEMPLATES
    }

    fn request_new_pad(
        &self,
        template: &gst::PadTemplate,
        _name: Option<&str>,
        _caps: Option<&gst::Caps>,
    ) -> Option<gst::Pad> {
        let mut video = self.video.lock().unwrap_or_else(PoisonError::into_inner);
        if video.is_some() {
            gst::warning!(CAT, imp = self, "there is a video pad already");
            return None;
        }
        let pad = gst::Pad::builder_from_template(template)
            .name("video")
            .chain_function(|_, parent, buffer| {
                let failed = || Err(gst::FlowError::Error);
                Self::catch_panic_pad_function(parent, failed, |this| this.frames.push(buffer))
            })
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |this| this.video_event(pad, &event))
            })
            .build();
        let _ = pad.set_active(true);
        *video = Some(pad.clone());
        drop(video);
        self.obj().add_pad(&pad).ok()?;
        Some(pad)
    }

    fn release_pad(&self, pad: &gst::Pad) {
        self.frames.flush_start();
        let _ = pad.set_active(false);
        let _ = self.obj().remove_pad(pad);
        *self.video.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.frames.reset();
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        match transition {
            gst::StateChange::ReadyToPaused => {
                *self.text() = Text::default();
                self.frames.reset();
            }
            // Nobody is to wait when the pads are stopped.
            gst::StateChange::PausedToReady => self.frames.flush_start(),
            _ => {}
        }
        self.parent_change_state(transition)
    }
}

impl BinImpl for SoraPrompt {}
