//! Writes the stream to a file while it plays.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use gst::prelude::*;

use crate::error::{Error, Result};

/// A branch of the tee that ends in a file. If it fails, the stream goes on without it.
pub struct Recording {
    pub file: PathBuf,
    bin: gst::Bin,
    tee: gst::Pad,
}

impl Recording {
    /// Begins a file in `folder`. With `keys` it is signed. `shot` is what is shown: the signer learns from it what made the picture.
    ///
    /// # Errors
    /// If the folder cannot be made, or the branch cannot start.
    pub fn start(
        pipeline: &gst::Pipeline,
        tee: &gst::Element,
        folder: &Path,
        keys: Option<&Path>,
        shot: Option<gst::Structure>,
    ) -> Result<Self> {
        std::fs::create_dir_all(folder)
            .map_err(|error| Error::File { path: folder.into(), reason: error.to_string() })?;
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let file = folder.join(format!("recording-{seconds}.mp4"));
        let sink = if keys.is_some() { "c2pasink" } else { "filesink" };
        // A full disk must not stop the tee.
        let description =
            format!("errorignore ! queue ! x264enc tune=zerolatency ! h264parse ! mp4mux ! {sink} name=file");
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
        match connect(&bin, tee, shot) {
            Ok(tee) => Ok(Self { file, bin, tee }),
            Err(error) => {
                remove(pipeline, &bin);
                Err(error)
            }
        }
    }

    /// Whether `message` says that the file is complete.
    pub fn is_complete(&self, message: &gst::MessageRef) -> bool {
        let gst::MessageView::Element(element) = message.view() else { return false };
        let forwarded = element.structure().filter(|structure| structure.name() == "GstBinForwarded");
        let inner = forwarded.and_then(|structure| structure.get::<gst::Message>("message").ok());
        let ended = inner.is_some_and(|inner| inner.type_() == gst::MessageType::Eos);
        ended && message.src().is_some_and(|source| source == self.bin.upcast_ref::<gst::Object>())
    }

    /// Whether `message` is an error of this branch.
    pub fn has_failed(&self, message: &gst::MessageRef) -> bool {
        message.type_() == gst::MessageType::Error
            && message.src().is_some_and(|source| source.has_as_ancestor(&self.bin))
    }

    /// Ends the file. A message follows when it is complete.
    pub fn finish(&self) {
        self.tee.add_probe(gst::PadProbeType::IDLE, |pad, _| {
            if let Some(peer) = disconnect(pad) {
                peer.send_event(gst::event::Eos::new());
            }
            gst::PadProbeReturn::Remove
        });
    }

    /// Removes the branch, whose file is complete or has failed.
    pub fn remove(&self, pipeline: &gst::Pipeline) {
        disconnect(&self.tee);
        remove(pipeline, &self.bin);
    }
}

/// Starts the branch, and connects it to the tee. Returns the pad of the tee.
fn connect(bin: &gst::Bin, tee: &gst::Element, shot: Option<gst::Structure>) -> Result<gst::Pad> {
    let missing = || gst::glib::bool_error!("the branch has no pad");
    bin.sync_state_with_parent()?;
    let pad = bin.static_pad("sink").ok_or_else(missing)?;
    let from = tee.request_pad_simple("src_%u").ok_or_else(missing)?;
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, _| {
        if let Some(shot) = &shot {
            pad.send_event(gst::event::CustomDownstream::new(shot.clone()));
        }
        gst::PadProbeReturn::Remove
    });
    if let Err(error) = from.link(&pad) {
        tee.release_request_pad(&from);
        return Err(gst::glib::bool_error!("cannot record: {error}").into());
    }
    Ok(from)
}

/// Takes the branch off the tee. Returns its pad, unless that was done before.
fn disconnect(pad: &gst::Pad) -> Option<gst::Pad> {
    let (tee, peer) = (pad.parent_element()?, pad.peer()?);
    // Both were linked.
    let _ = pad.unlink(&peer);
    tee.release_request_pad(pad);
    Some(peer)
}

fn remove(pipeline: &gst::Pipeline, bin: &gst::Bin) {
    let _ = bin.set_state(gst::State::Null);
    let _ = pipeline.remove(bin);
}
