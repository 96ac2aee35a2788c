//! The camera of a browser, changed by `sorafilter`, in place of what `soragen` makes.
//!
//! The page offers its picture by WebRTC. The first frame of the filter switches the stream over, and `soragen` is paused meanwhile: one
//! model works at a time.

use std::sync::{Arc, Mutex};

use gst::glib;
use gst::prelude::*;
use gst_sdp::SDPMessage;
use gst_webrtc::{WebRTCPeerConnectionState, WebRTCSDPType, WebRTCSessionDescription};
use tokio::sync::mpsc::UnboundedSender;

use crate::error::Result;
use crate::lock;
use crate::protocol::ToPage;

/// Name of the branch.
const NAME: &str = "camera";
/// Messages of the branch: its picture is shown, and the browser is gone.
pub const ON_AIR: &str = "camera-on-air";
pub const GONE: &str = "camera-gone";
/// What the filter does not take over from `soragen`: these are about its own subjects.
const OF_SOURCE: [&str; 3] = ["name", "reference", "motion-path"];
const DESCRIPTION: &str = "webrtcbin name=webrtc bundle-policy=max-bundle latency=50 \
    rtpvp8depay name=depay request-keyframe=true wait-for-keyframe=true ! vp8dec ! videoconvert ! videoscale ! \
    capsfilter name=size ! queue leaky=downstream ! sorafilter name=filter ! videoconvert ! videorate skip-to-first=true ! \
    capsfilter name=caps ! queue name=end";

/// A branch that ends at a pad of the selector.
pub struct Camera {
    bin: gst::Bin,
    webrtc: gst::Element,
    pub filter: gst::Element,
    selector: gst::Element,
    pad: gst::Pad,
    source: gst::Element,
    state: Arc<Mutex<State>>,
    /// The last `soragen-shot` of the filter.
    shot: Arc<Mutex<Option<gst::Structure>>>,
    page: UnboundedSender<ToPage>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// For the first frame.
    Waiting,
    OnAir,
    Stopped,
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
        let caps = source.static_pad("src").and_then(|pad| pad.current_caps());
        let caps = caps.ok_or_else(|| missing("picture yet; wait until the model is loaded"))?;
        let offer = SDPMessage::parse_buffer(offer.as_bytes())?;
        let bin = gst::parse::bin_from_description_with_name(DESCRIPTION, false, NAME)?;
        let by_name = |name: &str| bin.by_name(name).ok_or_else(|| missing(name));
        let (webrtc, depay, filter, end) =
            (by_name("webrtc")?, by_name("depay")?, by_name("filter")?, by_name("end")?);
        by_name("size")?.set_property("caps", size_of(&caps));
        // What follows must not see that the picture comes from elsewhere.
        by_name("caps")?.set_property("caps", &caps);
        take_over(source, &filter);
        let ghost = gst::GhostPad::with_target(&end.static_pad("src").ok_or_else(|| missing("end"))?)?;
        bin.add_pad(&ghost)?;
        connect_media(&webrtc, &depay);
        report(&webrtc, &bin, &page);
        pipeline.add(&bin)?;
        let pad = selector.request_pad_simple("sink_%u").ok_or_else(|| missing("selector"))?;
        let camera = Self {
            bin,
            webrtc,
            filter,
            selector: selector.clone(),
            pad,
            source: source.clone(),
            state: Arc::new(Mutex::new(State::Waiting)),
            shot: Arc::default(),
            page,
        };
        match camera.connect(&ghost, offer) {
            Ok(sdp) => {
                // The page may be gone.
                let _ = camera.page.send(ToPage::CameraAnswer { sdp });
                Ok(camera)
            }
            Err(error) => {
                camera.stop(pipeline, None);
                Err(error)
            }
        }
    }

    /// Starts the branch. Returns the answer.
    fn connect(&self, ghost: &gst::GhostPad, offer: SDPMessage) -> Result<String> {
        ghost.link(&self.pad).map_err(|error| glib::bool_error!("cannot connect the camera: {error}"))?;
        self.watch_events(ghost);
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

    /// Keeps the shots of the filter, which come while the selector still shows `soragen`, and keeps its end from the selector.
    fn watch_events(&self, ghost: &gst::GhostPad) {
        let shot = self.shot.clone();
        ghost.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
            let Some(event) = info.event() else { return gst::PadProbeReturn::Ok };
            if let Some(found) = event.structure().filter(|structure| structure.name() == "soragen-shot") {
                *lock(&shot) = Some(found.to_owned());
            }
            match event.type_() {
                gst::EventType::Eos => gst::PadProbeReturn::Handled,
                _ => gst::PadProbeReturn::Ok,
            }
        });
    }

    fn switch_at_first_frame(&self) {
        let (selector, source, bin) = (self.selector.clone(), self.source.clone(), self.bin.downgrade());
        let (state, shot) = (self.state.clone(), self.shot.clone());
        self.pad.add_probe(gst::PadProbeType::BUFFER, move |pad, _| {
            let mut now = lock(&state);
            if *now != State::Waiting {
                return gst::PadProbeReturn::Remove;
            }
            *now = State::OnAir;
            selector.set_property("active-pad", pad);
            drop(now);
            announce(pad, lock(&shot).clone());
            let state = state.clone();
            source.call_async(move |source| {
                let now = lock(&state);
                if *now == State::OnAir {
                    source.set_locked_state(true);
                    // It goes on, and is late, if it cannot pause.
                    let _ = source.set_state(gst::State::Paused);
                }
            });
            if let Some(bin) = bin.upgrade() {
                post(&bin, ON_AIR);
            }
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

    /// Whether its picture is shown.
    pub fn is_on_air(&self) -> bool {
        *lock(&self.state) == State::OnAir
    }

    /// The last `soragen-shot` of the filter.
    pub fn shot(&self) -> Option<gst::Structure> {
        lock(&self.shot).clone()
    }

    /// Shows again what `soragen` makes, whose last `soragen-shot` is `shot`, and removes the branch.
    pub fn stop(&self, pipeline: &gst::Pipeline, shot: Option<gst::Structure>) {
        {
            let mut now = lock(&self.state);
            *now = State::Stopped;
            if let Some(pad) = self.source.static_pad("src").and_then(|pad| pad.peer()) {
                pad.add_probe(gst::PadProbeType::BUFFER, move |pad, _| {
                    announce(pad, shot.clone());
                    gst::PadProbeReturn::Remove
                });
                self.selector.set_property("active-pad", &pad);
            }
            self.source.set_locked_state(false);
            // A source that cannot play posts why.
            let _ = self.source.sync_state_with_parent();
        }
        // The selector may hold a thread of the branch.
        self.pad.send_event(gst::event::FlushStart::new());
        // A branch that cannot stop ends with the pipeline.
        let _ = self.bin.set_state(gst::State::Null);
        let _ = pipeline.remove(&self.bin);
        self.selector.release_request_pad(&self.pad);
        let _ = pipeline.recalculate_latency();
    }
}

/// Whether `message` comes from a camera, also from one that is no longer in the pipeline.
pub fn is_source_of(message: &gst::MessageRef) -> bool {
    let name = format!(":{NAME}/");
    message.src().is_some_and(|source| format!("{}/", source.path_string()).contains(&name))
}

/// Tells what follows the pad which shot made the next frames.
fn announce(pad: &gst::Pad, shot: Option<gst::Structure>) {
    if let Some(shot) = shot {
        pad.send_event(gst::event::CustomDownstream::new(shot));
    }
}

fn post(bin: &gst::Bin, name: &str) {
    let message = gst::message::Application::builder(gst::Structure::new_empty(name)).src(bin);
    // Without a bus the pipeline is gone.
    let _ = bin.post_message(message.build());
}

/// Gives the filter the properties of `soragen` that it has too: its model, policy and watermark among them.
fn take_over(source: &gst::Element, filter: &gst::Element) {
    let own = filter.list_properties();
    let own = own.iter().filter(|property| {
        property.owner_type() == filter.type_()
            && property.flags().contains(glib::ParamFlags::WRITABLE)
            && !OF_SOURCE.contains(&property.name())
    });
    for property in own {
        let name = property.name();
        if source.find_property(name).is_some_and(|other| other.value_type() == property.value_type()) {
            filter.set_property_from_value(name, &source.property_value(name));
        }
    }
}

/// Width, height and shape of the pixels of `caps`.
fn size_of(caps: &gst::Caps) -> gst::Caps {
    let mut size = gst::Structure::new_empty("video/x-raw");
    for field in ["width", "height", "pixel-aspect-ratio"] {
        if let Some(value) = caps.structure(0).and_then(|structure| structure.value(field).ok()) {
            size.set_value(field, value.clone());
        }
    }
    gst::Caps::from_iter([size])
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

/// Sends the ICE candidates to the page, and posts when it is gone.
fn report(webrtc: &gst::Element, bin: &gst::Bin, page: &UnboundedSender<ToPage>) {
    let page = page.clone();
    webrtc.connect("on-ice-candidate", false, move |args| {
        if let (Ok(line), Ok(candidate)) = (args[1].get::<u32>(), args[2].get::<String>()) {
            // The page may be gone.
            let _ = page.send(ToPage::CameraIce { candidate, line });
        }
        None
    });
    let bin = bin.downgrade();
    webrtc.connect_notify(Some("connection-state"), move |webrtc, _| {
        use WebRTCPeerConnectionState::{Closed, Disconnected, Failed};
        let state = webrtc.property::<WebRTCPeerConnectionState>("connection-state");
        if let (Closed | Disconnected | Failed, Some(bin)) = (state, bin.upgrade()) {
            post(&bin, GONE);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_keeps_the_policy_of_the_source() {
        gst::init().unwrap();
        gstsoragen::plugin_register_static().unwrap();
        let make = |name| gst::ElementFactory::make(name).build().unwrap();
        let (source, filter) = (make("soragen"), make("sorafilter"));
        source.set_property("policy", "strict.toml");
        source.set_property("audit-log", "audit.log");
        source.set_property("reference", "bank:fox");
        take_over(&source, &filter);
        assert_eq!(filter.property::<String>("policy"), "strict.toml");
        assert_eq!(filter.property::<String>("audit-log"), "audit.log");
        assert_eq!(filter.property::<Option<String>>("reference"), None);
    }
}
