// SPDX-License-Identifier: MPL-2.0

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use soragen::storyboard::{self, PadText};
use soragen::{RgbImage, Shot, Transition};

use crate::source::{CueEnd, PROMPT_CHECK, SoraGen};
use crate::video::side_pad::SidePad;

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("soraprompt", gst::DebugColorFlags::empty(), Some("Timed text to video"))
});

/// State of the text stream.
#[derive(Default)]
struct TextState {
    segment: gst::FormattedSegment<gst::ClockTime>,
    /// The text is Pango markup, as subtitle parsers output it.
    markup: bool,
    /// Start of the last shot, in running time; the first one starts at 0.
    last: Option<Duration>,
    /// The last shot has no end yet: its text has no duration.
    open: bool,
    /// Running time of the end of the last cue that has one.
    end: Duration,
    /// Running time of the end of the last gap.
    gap_end: Duration,
}

impl TextState {
    /// The end of the video after the last text.
    fn end(&self, now: Option<Duration>) -> CueEnd {
        let Some(last) = self.last else { return CueEnd::NoShots };
        if !self.open {
            return CueEnd::At(self.end);
        }
        let stop = self.segment.to_running_time(self.segment.stop()).map(Duration::from);
        let known = [stop, Some(self.gap_end), now].into_iter().flatten().find(|&end| end > last);
        known.map_or(CueEnd::NaturalAfter(last), CueEnd::At)
    }
}

/// A text with its running times.
struct Cue {
    start: Duration,
    /// `None` until the next text.
    end: Option<Duration>,
    prompt: String,
    transition: Transition,
}

pub struct SoraPrompt {
    source: SoraGen,
    sink: gst::Pad,
    src: gst::GhostPad,
    text: Mutex<TextState>,
    /// The pad `video`.
    video: SidePad,
}

impl SoraPrompt {
    fn text(&self) -> MutexGuard<'_, TextState> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chain(&self, buffer: &gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let readable = buffer.map_readable().map_err(|_| gst::FlowError::Error)?;
        let bytes = String::from_utf8_lossy(&readable);
        let (segment, markup) = {
            let text = self.text();
            (text.segment.clone(), text.markup)
        };
        let Some(pts) = buffer.pts() else {
            self.warn("a text has no timestamp and is dropped; set the timestamps of the buffers");
            return Ok(gst::FlowSuccess::Ok);
        };
        let texts = match storyboard::pad_texts(bytes.trim_end_matches('\0'), markup) {
            Ok(texts) => texts,
            Err(reason) => {
                self.warn(&format!("a text is dropped: {reason}"));
                return Ok(gst::FlowSuccess::Ok);
            }
        };
        for PadText { times, prompt, transition } in texts {
            let (start, until) = match times {
                Some((start, until)) => (start.try_into().ok(), until.try_into().ok()),
                None => (Some(pts), buffer.duration().and_then(|duration| pts.checked_add(duration))),
            };
            let Some(from) = segment.to_running_time(start).map(Duration::from) else {
                gst::debug!(CAT, imp = self, "cue dropped: outside of the segment: {prompt:?}");
                continue;
            };
            let length = start.zip(until).map(|(start, until)| until.saturating_sub(start));
            let end = length.map(|length| from + Duration::from(length));
            self.add_cue(Cue { start: from, end, prompt, transition })?;
        }
        Ok(gst::FlowSuccess::Ok)
    }

    /// Passes `cue` to the source.
    fn add_cue(&self, cue: Cue) -> Result<(), gst::FlowError> {
        let Cue { start, end, prompt, transition } = cue;
        gst::debug!(CAT, imp = self, "{start:?} to {end:?}: {transition:?} {prompt:?}");
        if end == Some(start) {
            self.warn(&format!(
                "the text {prompt:?} has no length and is dropped; set a longer duration, or none"
            ));
            return Ok(());
        }
        let first = {
            let mut text = self.text();
            let first = text.last.is_none();
            // The source drops a shot out of order.
            let in_order = text.last.is_none_or(|last| start > last);
            if prompt.is_empty() {
                // It ends the text before it.
                if in_order && std::mem::take(&mut text.open) {
                    text.end = text.end.max(start);
                }
            } else if in_order {
                // The first cue starts at 0, because the video has no frames before it.
                text.last = Some(if first { Duration::ZERO } else { start });
                text.open = end.is_none();
                text.end = text.end.max(end.unwrap_or_default());
            }
            first
        };
        self.video.input.set_main_time(start);
        if prompt.is_empty() {
            self.source.set_shots_complete_until(start);
            return Ok(());
        }
        let image = match first || transition == Transition::Cut {
            true => self.image_at(start)?,
            false => None,
        };
        let mut shot = Shot::new(if first { Duration::ZERO } else { start }, prompt);
        shot.image = image;
        shot.transition = transition;
        self.source.add_shot(shot);
        Ok(())
    }

    fn warn(&self, text: &str) {
        gst::element_imp_warning!(self, gst::StreamError::Decode, ("{text}"));
    }

    /// The running time at which a live source plays; a source that is not live has none.
    fn live_time(&self) -> Option<Duration> {
        self.source.is_live().then(|| self.obj().current_running_time().map(Duration::from))?
    }

    /// The frame of the pad `video` at `time`, if the pad is linked.
    fn image_at(&self, time: Duration) -> Result<Option<RgbImage>, gst::FlowError> {
        if !self.video.is_linked() {
            return Ok(None);
        }
        let image = self.video.frame_at(time);
        match image {
            Ok(None) => gst::warning!(
                CAT,
                imp = self,
                "the video pad has no frame at this time; the shot starts from noise"
            ),
            Err(gst::FlowError::NotNegotiated) => gst::element_imp_error!(
                self,
                gst::StreamError::Format,
                ("cannot convert the first frame of a shot to RGB")
            ),
            _ => {}
        }
        image
    }

    fn video_event(&self, pad: &gst::Pad, event: &gst::Event) -> bool {
        if !self.video.input.event(event) {
            if event.type_() == gst::EventType::Segment {
                gst::element_imp_error!(
                    self,
                    gst::StreamError::Format,
                    ("the video has no timestamps: its segment is not in time format")
                );
            }
            return false;
        }
        gst::trace!(CAT, obj = pad, "{event:?}");
        true
    }

    /// Handles an event of the text. None is forwarded: the source has its own events.
    fn event(&self, event: &gst::Event) -> bool {
        match event.view() {
            gst::EventView::Caps(event) => {
                let format = event.caps().structure(0).and_then(|caps| caps.get::<&str>("format").ok());
                self.text().markup = format == Some("pango-markup");
            }
            gst::EventView::Segment(event) => {
                let Ok(segment) = event.segment().clone().downcast::<gst::ClockTime>() else {
                    gst::element_imp_error!(
                        self,
                        gst::StreamError::Format,
                        ("the text has no timestamps: its segment is not in time format")
                    );
                    return false;
                };
                self.text().segment = segment;
            }
            gst::EventView::Gap(gap) => {
                let (start, duration) = gap.get();
                let mut text = self.text();
                if let Some(end) =
                    text.segment.to_running_time(start.saturating_add(duration.unwrap_or_default()))
                {
                    text.gap_end = text.gap_end.max(end.into());
                    drop(text);
                    self.video.input.set_main_time(end.into());
                    self.source.set_shots_complete_until(end.into());
                }
            }
            gst::EventView::Eos(_) => {
                let now = self.live_time();
                let end = self.text().end(now);
                self.video.input.end_main();
                self.source.finish_shots(end);
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
            source: SoraGen::with_streamed_shots("soragen"),
            sink,
            src,
            text: Mutex::default(),
            video: SidePad::default(),
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
            let target = self
                .source
                .static_pad("src")
                .ok_or_else(|| glib::bool_error!("the source has no src pad"))?;
            self.src.set_target(Some(&target))?;
            bin.add_pad(&self.sink)?;
            bin.add_pad(&self.src)
        };
        if let Err(error) = build() {
            gst::error!(CAT, imp = self, "{error}");
        }
        let weak = bin.downgrade();
        self.source.connect(PROMPT_CHECK, false, move |args| {
            let prompt = args[1].get::<String>().unwrap_or_default();
            let accepted = weak.upgrade().is_some_and(|bin| bin.emit_by_name(PROMPT_CHECK, &[&prompt]));
            Some(accepted.to_value())
        });
        bin.set_element_flags(gst::ElementFlags::SOURCE);
    }
}

impl GstObjectImpl for SoraPrompt {}

impl ElementImpl for SoraPrompt {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Timed text to video",
                "Converter/Text/Video",
                "Generates video from timed text, such as subtitles, with a diffusion model in-process",
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
            let video = crate::source::caps::template_with_cuda();
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
        let pad = self.video.request(self, template, |this| &this.video, Self::video_event);
        if pad.is_none() {
            gst::warning!(CAT, imp = self, "the video pad exists already");
        }
        pad
    }

    fn release_pad(&self, pad: &gst::Pad) {
        self.video.release(&*self.obj(), pad);
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        match transition {
            gst::StateChange::ReadyToPaused => {
                *self.text() = TextState::default();
                self.video.input.reset();
            }
            // Before the pads are deactivated, which waits for their streaming threads.
            gst::StateChange::PausedToReady => self.video.input.stop(),
            _ => {}
        }
        self.parent_change_state(transition)
    }
}

impl BinImpl for SoraPrompt {}
