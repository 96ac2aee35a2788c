// SPDX-License-Identifier: MPL-2.0

//! The thread that downloads a model before the element starts.

use gst::prelude::*;
use gst::subclass::prelude::*;
use soragen::Cancel;
use soragen::hub::{Download, Hub, HubName};

use super::{SoraGen, messages};

/// Downloads `name` on a new thread, posts its progress, and then completes the start of `element`.
///
/// After a cancel it does neither. `stop` does not wait for the thread, because a read from the network may block for a
/// long time; the thread has no model and no frames.
///
/// # Errors
/// If the system cannot spawn a thread.
pub fn start(element: &SoraGen, name: HubName, cancel: Cancel) -> std::io::Result<()> {
    let element = element.downgrade();
    let work = move || {
        let post = |kind, text: &str, progress: Option<&Download>| {
            if let Some(element) = element.upgrade().filter(|_| !cancel.is_cancelled()) {
                messages::post(&element, messages::download_progress(&element, kind, text, progress));
            }
        };
        post(gst::ProgressType::Start, &format!("Downloading {name}"), None);
        let mut percent = 0;
        let pulled = Hub::from_env().pull(&name, &cancel, &mut |progress| {
            let now = u128::from(progress.received) * 100 / u128::from(progress.total.max(1));
            if std::mem::replace(&mut percent, now) != now {
                let text = format!("{now} % of {name}: {}", progress.file);
                post(gst::ProgressType::Continue, &text, Some(progress));
            }
        });
        match &pulled {
            Ok(_) => post(gst::ProgressType::Complete, &format!("{name} is downloaded"), None),
            Err(_) => post(gst::ProgressType::Error, &format!("the download of {name} failed"), None),
        }
        if let Some(element) = element.upgrade() {
            element.imp().finish_download(pulled.map(drop), &cancel);
        }
    };
    std::thread::Builder::new().name("soragen-download".into()).spawn(work).map(drop)
}
