//! Connects browsers to a `webrtcsink`: its signaller does not connect to a server, but gives its messages to WebSockets of the page.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use gst::glib;
use gst::prelude::*;
use gst_sdp::SDPMessage;
use gst_webrtc::{WebRTCSDPType, WebRTCSessionDescription};
use gstrswebrtc::signaller::Signallable;
use tokio::sync::mpsc::UnboundedSender;

use crate::lock;
use crate::protocol::ToPage;

/// Asks the sink for an offer.
fn request(signaller: &Signallable, session: &str) {
    let offer = None::<WebRTCSessionDescription>;
    signaller.emit_by_name::<()>("session-requested", &[&session, &session, &offer]);
}

/// The browsers that watch.
pub struct Viewers {
    signaller: Signallable,
    sessions: Arc<Mutex<HashMap<String, UnboundedSender<ToPage>>>>,
    /// Their connections, to count those that are in memory.
    connections: Arc<Mutex<Vec<glib::WeakRef<gst::Element>>>>,
    next: AtomicU64,
    /// Sessions that wait until the sink can make offers; `None` when it can.
    waiting: Arc<Mutex<Option<Vec<String>>>>,
}

impl Viewers {
    /// The viewers of `sink`, a `webrtcsink` that was not started yet.
    pub fn new(sink: &gst::Element) -> Self {
        let signaller = sink.property::<Signallable>("signaller");
        let sessions: Arc<Mutex<HashMap<String, UnboundedSender<ToPage>>>> = Arc::default();
        let connections: Arc<Mutex<Vec<glib::WeakRef<gst::Element>>>> = Arc::default();
        // The first handler of these signals replaces the class's own, which would use a signalling server.
        let waiting = Arc::new(Mutex::new(Some(Vec::<String>::new())));
        let begun = waiting.clone();
        signaller.connect("start", false, move |args| {
            let sessions = lock(&begun).take().unwrap_or_default();
            if let Ok(signaller) = args[0].get::<Signallable>() {
                sessions.iter().for_each(|session| request(&signaller, session));
            }
            Some(true.to_value())
        });
        for signal in ["stop", "end-session"] {
            signaller.connect(signal, false, |_| Some(true.to_value()));
        }
        let to = sessions.clone();
        signaller.connect("send-session-description", false, move |args| {
            let (session, description) = (args[1].get::<String>(), args[2].get::<WebRTCSessionDescription>());
            if let (Ok(session), Ok(description)) = (session, description)
                && let (Some(page), Ok(sdp)) = (lock(&to).get(&session), description.sdp().as_text())
            {
                // The page may be gone.
                let _ = page.send(ToPage::Offer { sdp });
            }
            Some(true.to_value())
        });
        let to = sessions.clone();
        signaller.connect("send-ice", false, move |args| {
            let values = (args[1].get::<String>(), args[2].get::<String>(), args[3].get::<u32>());
            if let (Ok(session), Ok(candidate), Ok(line)) = values
                && let Some(page) = lock(&to).get(&session)
            {
                let _ = page.send(ToPage::Ice { candidate, line });
            }
            Some(true.to_value())
        });
        let made = connections.clone();
        signaller.connect("webrtcbin-ready", false, move |args| {
            if let Ok(connection) = args[2].get::<gst::Element>() {
                lock(&made).push(connection.downgrade());
            }
            None
        });
        Self { signaller, sessions, connections, next: AtomicU64::new(0), waiting }
    }

    /// Begins to send the picture to `page`. Returns the name of the session.
    pub fn watch(&self, page: UnboundedSender<ToPage>) -> String {
        let session = format!("viewer-{}", self.next.fetch_add(1, Ordering::Relaxed));
        lock(&self.sessions).insert(session.clone(), page);
        if let Some(waiting) = &mut *lock(&self.waiting) {
            waiting.push(session.clone());
            return session;
        }
        request(&self.signaller, &session);
        session
    }

    /// Passes on the answer of the page. Returns false if it is not valid.
    pub fn answer(&self, session: &str, sdp: &str) -> bool {
        let Ok(sdp) = SDPMessage::parse_buffer(sdp.as_bytes()) else { return false };
        let answer = WebRTCSessionDescription::new(WebRTCSDPType::Answer, sdp);
        self.signaller.emit_by_name::<()>("session-description", &[&session, &answer]);
        true
    }

    /// Passes on an ICE candidate of the page.
    pub fn add_ice(&self, session: &str, candidate: &str, line: u32) {
        self.signaller.emit_by_name::<()>("handle-ice", &[&session, &line, &None::<String>, &candidate]);
    }

    /// The page is gone.
    pub fn end(&self, session: &str) {
        if let Some(waiting) = &mut *lock(&self.waiting) {
            waiting.retain(|other| other != session);
        }
        if lock(&self.sessions).remove(session).is_some() {
            self.signaller.emit_by_name::<bool>("session-ended", &[&session]);
        }
    }

    /// Viewers whose connection is in memory.
    pub fn count(&self) -> usize {
        let mut connections = lock(&self.connections);
        connections.retain(|connection| connection.upgrade().is_some());
        connections.len()
    }
}
