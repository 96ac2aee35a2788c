//! The camera of a browser, changed by `sorafilter`, in place of what `soragen` makes.
//!
//! The page offers its picture by WebRTC. The first frame of the filter switches the programme over, and `soragen` waits meanwhile.

use std::sync::{Arc, Mutex};

use gst::glib;
use gst::prelude::*;
use gst_sdp::SDPMessage;
use gst_webrtc::{WebRTCSDPType, WebRTCSessionDescription};
use tokio::sync::mpsc::UnboundedSender;

use crate::error::Result;
use crate::lock;
use crate::protocol::ToPage;

/// Properties of the source that the filter has too, and starts with.
const SHARED: [&str; 8] =
    ["model", "device", "prompt", "negative-prompt", "seed", "label", "threads", "watermark-key"];

/// A branch that ends at a pad of the selector.
pub struct Camera {
    bin: gst::Bin,
    webrtc: gst::Element,
    pub filter: gst::Element,
    selector: gst::Element,
    pad: gst::Pad,
    /// The pad of `soragen`, and the probe that lets it wait.
    source: gst::Pad,
    waits: Arc<Mutex<Option<gst::PadProbeId>>>,
    page: UnboundedSender<ToPage>,
}

impl Camera {
    /// Answers the `offer` of a page, and adds its camera to the pipeline. The page gets the answer and the ICE candidates.
    ///
    /// # Errors
    /// If an element is missing, or the offer is not valid.
    pub fn start(
        pipeline: &gst::Pipeline,
        source: &gst::Element,
        selector: &gst::Element,
        offer: &str,
        page: UnboundedSender<ToPage>,
    ) -> Result<Self> {
        let missing = |what: &str| glib::bool_error!("there is no {what}");
        let from = source.static_pad("src").ok_or_else(|| missing("source"))?;
        let caps =
            from.current_caps().ok_or_else(|| missing("picture yet; wait until the model is loaded"))?;
        let offer = SDPMessage::parse_buffer(offer.as_bytes())?;
        let description = "webrtcbin name=webrtc bundle-policy=max-bundle latency=50 \
             rtpvp8depay name=depay ! vp8dec ! videoconvert ! videoscale ! capsfilter name=size ! queue leaky=downstream ! \
             sorafilter name=filter ! videoconvert ! videorate ! capsfilter name=caps ! queue name=end";
        let bin = gst::parse::bin_from_description(description, false)?;
        let by_name = |name: &str| bin.by_name(name).ok_or_else(|| missing(name));
        let [webrtc, depay, size, filter, end_caps, end] =
            ["webrtc", "depay", "size", "filter", "caps", "end"].map(by_name);
        let (webrtc, depay, filter, end) = (webrtc?, depay?, filter?, end?);
        let structure = caps.structure(0).ok_or_else(|| missing("picture"))?;
        let mut scaled = gst::Structure::new_empty("video/x-raw");
        for field in ["width", "height", "pixel-aspect-ratio"] {
            if let Ok(value) = structure.value(field) {
                scaled.set_value(field, value.clone());
            }
        }
        size?.set_property("caps", gst::Caps::from_iter([scaled]));
        // What follows must not see that the picture comes from elsewhere.
        end_caps?.set_property("caps", &caps);
        for name in SHARED.iter().filter(|name| filter.find_property(name).is_some()) {
            filter.set_property_from_value(name, &source.property_value(name));
        }
        let ghost = gst::GhostPad::with_target(&end.static_pad("src").ok_or_else(|| missing("end"))?)?;
        bin.add_pad(&ghost)?;
        connect_media(&webrtc, &depay);
        let to = page.clone();
        webrtc.connect("on-ice-candidate", false, move |args| {
            if let (Ok(line), Ok(candidate)) = (args[1].get::<u32>(), args[2].get::<String>()) {
                // The page may be gone.
                let _ = to.send(ToPage::CameraIce { candidate, line });
            }
            None
        });
        pipeline.add(&bin)?;
        let pad = selector.request_pad_simple("sink_%u").ok_or_else(|| missing("selector"))?;
        let camera = Self {
            bin,
            webrtc,
            filter,
            selector: selector.clone(),
            pad,
            source: from,
            waits: Arc::default(),
            page,
        };
        match camera.connect(&ghost, offer) {
            Ok(sdp) => {
                let _ = camera.page.send(ToPage::CameraAnswer { sdp });
                Ok(camera)
            }
            Err(error) => {
                camera.stop(pipeline);
                Err(error)
            }
        }
    }

    /// Starts the branch. Returns the answer.
    fn connect(&self, ghost: &gst::GhostPad, offer: SDPMessage) -> Result<String> {
        ghost.link(&self.pad).map_err(|error| glib::bool_error!("cannot connect the camera: {error}"))?;
        self.switch_at_first_frame();
        self.bin.sync_state_with_parent()?;
        let refused = || glib::bool_error!("the offer of the browser is refused");
        let offer = WebRTCSessionDescription::new(WebRTCSDPType::Offer, offer);
        let promise = gst::Promise::new();
        self.webrtc.emit_by_name::<()>("set-remote-description", &[&offer, &promise]);
        promise.wait();
        let promise = gst::Promise::new();
        self.webrtc.emit_by_name::<()>("create-answer", &[&None::<gst::Structure>, &promise]);
        promise.wait();
        let reply = promise.get_reply().ok_or_else(refused)?;
        let answer = reply.get::<WebRTCSessionDescription>("answer").map_err(|_| refused())?;
        let sdp = answer.sdp().as_text().map_err(|_| refused())?;
        self.webrtc.emit_by_name::<()>("set-local-description", &[&answer, &None::<gst::Promise>]);
        Ok(sdp)
    }

    fn switch_at_first_frame(&self) {
        let (selector, source, waits) = (self.selector.clone(), self.source.clone(), self.waits.clone());
        self.pad.add_probe(gst::PadProbeType::BUFFER, move |pad, _| {
            selector.set_property("active-pad", pad);
            // The model works for the filter now.
            let blocked =
                source.add_probe(gst::PadProbeType::BLOCK_DOWNSTREAM, |_, _| gst::PadProbeReturn::Ok);
            *lock(&waits) = blocked;
            gst::PadProbeReturn::Remove
        });
    }

    /// Passes on an ICE candidate of the page.
    pub fn add_ice(&self, candidate: &str, line: u32) {
        self.webrtc.emit_by_name::<()>("add-ice-candidate", &[&line, &candidate]);
    }

    /// Whether it is the camera of this page.
    pub fn is_of(&self, page: &UnboundedSender<ToPage>) -> bool {
        self.page.same_channel(page)
    }

    /// Whether `message` comes from this branch.
    pub fn is_source_of(&self, message: &gst::MessageRef) -> bool {
        message.src().is_some_and(|source| source.has_as_ancestor(&self.bin) || *source == self.bin)
    }

    /// Shows again what `soragen` makes, and removes the branch.
    pub fn stop(&self, pipeline: &gst::Pipeline) {
        if let Some(pad) = self.source.peer() {
            drop_before(&pad, pipeline.current_running_time());
            self.selector.set_property("active-pad", &pad);
        }
        if let Some(waits) = lock(&self.waits).take() {
            self.source.remove_probe(waits);
        }
        // A branch that cannot stop ends with the pipeline.
        let _ = self.bin.set_state(gst::State::Null);
        let _ = pipeline.remove(&self.bin);
        self.selector.release_request_pad(&self.pad);
    }
}

/// Drops frames from before the running time `now`: `soragen` has held them back, and an encoder needs increasing times.
fn drop_before(pad: &gst::Pad, now: Option<gst::ClockTime>) {
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let time = info.buffer().and_then(|buffer| buffer.pts());
        match time < now {
            // As `Drop`, with which the bindings release the buffer twice.
            true => gst::PadProbeReturn::Handled,
            false => gst::PadProbeReturn::Remove,
        }
    });
}

/// Connects the picture of the browser once it comes.
fn connect_media(webrtc: &gst::Element, depay: &gst::Element) {
    let depay = depay.downgrade();
    webrtc.connect_pad_added(move |_, pad| {
        let sink = depay.upgrade().and_then(|depay| depay.static_pad("sink"));
        if let Some(sink) = sink.filter(|sink| pad.direction() == gst::PadDirection::Src && !sink.is_linked())
        {
            // Anything but VP8 stays without a picture.
            let _ = pad.link(&sink);
        }
    });
}
