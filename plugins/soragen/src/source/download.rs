// SPDX-License-Identifier: MPL-2.0

//! A model that comes from the hub before the element starts.

use std::time::Duration;

use gst::prelude::*;
use soragen::hub::{Download, Hub, HubName};
use soragen::{Cancel, Shot};

use super::SoraGen;

/// What was said of the shots.
pub enum Told {
    Shot(Shot),
    Known(Duration),
    End(Duration),
}

/// A model that is on its way.
#[derive(Default)]
pub struct Coming {
    pub cancel: Cancel,
    /// What is to be passed on when there is somebody to pass it on to.
    pub told: Vec<Told>,
}

/// Downloads `name` on a thread that nobody waits for, says on the bus how far it is, and then calls `then`; after a cancel
/// neither.
///
/// # Errors
/// The system's, if there can be no other thread.
pub fn start(
    element: &SoraGen,
    name: HubName,
    cancel: Cancel,
    then: impl FnOnce(&SoraGen, soragen::Result<()>) + Send + 'static,
) -> std::io::Result<()> {
    let element = element.downgrade();
    let work = move || {
        let tell = |kind, text: &str, at: Option<&Download>| {
            if let Some(element) = element.upgrade().filter(|_| !cancel.is_cancelled()) {
                post(&element, kind, text, at);
            }
        };
        tell(gst::ProgressType::Start, &format!("Downloading {name}"), None);
        let mut percent = 0;
        let pulled = Hub::from_env().pull(&name, &cancel, &mut |at| {
            let now = u128::from(at.received) * 100 / u128::from(at.total.max(1));
            if std::mem::replace(&mut percent, now) != now {
                tell(gst::ProgressType::Continue, &format!("{now} % of {name}: {}", at.file), Some(at));
            }
        });
        match &pulled {
            Ok(_) => tell(gst::ProgressType::Complete, &format!("{name} is downloaded"), None),
            Err(_) => tell(gst::ProgressType::Error, &format!("{name} is not downloaded"), None),
        }
        if let Some(element) = element.upgrade() {
            then(&element, pulled.map(drop));
        }
    };
    std::thread::Builder::new().name("soragen-download".into()).spawn(work).map(drop)
}

/// A message `download`, with the bytes that are `received` of the `total`.
fn post(element: &SoraGen, kind: gst::ProgressType, text: &str, at: Option<&Download>) {
    let mut message = gst::message::Progress::builder(kind, "download", text).src(element);
    if let Some(at) = at {
        message = message.other_field("received", at.received).other_field("total", at.total);
    }
    // Without a bus there is nobody to tell.
    let _ = element.post_message(message.build());
}
