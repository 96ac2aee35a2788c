//! Writes the programme to a file while it plays.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use gst::prelude::*;

use crate::error::{Error, Result};

/// A branch of the programme's tee that ends in a file.
pub struct Recording {
    pub file: PathBuf,
    bin: gst::Bin,
    tee: gst::Pad,
}

impl Recording {
    /// Begins a file in `folder`. With `keys` it is signed.
    ///
    /// # Errors
    /// If the folder cannot be made, or an element is missing.
    pub fn start(
        pipeline: &gst::Pipeline,
        tee: &gst::Element,
        folder: &Path,
        keys: Option<&Path>,
    ) -> Result<Self> {
        std::fs::create_dir_all(folder)
            .map_err(|error| Error::File { path: folder.into(), reason: error.to_string() })?;
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let file = folder.join(format!("programme-{seconds}.mp4"));
        let sink = if keys.is_some() { "c2pasink" } else { "filesink" };
        let description = format!("queue ! x264enc tune=zerolatency ! h264parse ! mp4mux ! {sink} name=file");
        let bin = gst::parse::bin_from_description(&description, true)?;
        if let Some(sink) = bin.by_name("file") {
            sink.set_property("location", file.to_string_lossy().as_ref());
            if let Some(keys) = keys {
                let path = |name: &str| keys.join(name).to_string_lossy().into_owned();
                sink.set_property("certificate", path("certificate.pem"));
                sink.set_property("private-key", path("private-key.pem"));
            }
            // A branch that begins late must not wait for the others.
            sink.set_property("async", false);
        }
        bin.set_property("message-forward", true);
        pipeline.add(&bin)?;
        bin.sync_state_with_parent()?;
        let missing = || gst::glib::bool_error!("the branch has no pad");
        let pad = bin.static_pad("sink").ok_or_else(missing)?;
        let tee = tee.request_pad_simple("src_%u").ok_or_else(missing)?;
        tee.link(&pad).map_err(|error| gst::glib::bool_error!("cannot record: {error}"))?;
        Ok(Self { file, bin, tee })
    }

    /// Whether `message` says that the file is complete.
    pub fn is_complete(&self, message: &gst::MessageRef) -> bool {
        let gst::MessageView::Element(element) = message.view() else { return false };
        let forwarded = element.structure().filter(|structure| structure.name() == "GstBinForwarded");
        let inner = forwarded.and_then(|structure| structure.get::<gst::Message>("message").ok());
        let ended = inner.is_some_and(|inner| inner.type_() == gst::MessageType::Eos);
        ended && message.src().is_some_and(|source| source == self.bin.upcast_ref::<gst::Object>())
    }

    /// Ends the file. A message follows when it is complete.
    pub fn finish(&self) {
        let bin = self.bin.clone();
        self.tee.add_probe(gst::PadProbeType::IDLE, move |pad, _| {
            if let (Some(tee), Some(peer)) = (pad.parent_element(), pad.peer()) {
                let _ = pad.unlink(&peer);
                peer.send_event(gst::event::Eos::new());
                tee.release_request_pad(pad);
            }
            let _ = &bin;
            gst::PadProbeReturn::Remove
        });
    }

    /// Removes the branch, whose file is complete.
    pub fn remove(&self, pipeline: &gst::Pipeline) {
        let _ = self.bin.set_state(gst::State::Null);
        let _ = pipeline.remove(&self.bin);
    }
}
