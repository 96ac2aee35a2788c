// SPDX-License-Identifier: MPL-2.0

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;
use tempfile::NamedTempFile;

use super::settings::{self, Settings};
use crate::credentials::{self, Origin, Signer};
use crate::{Destination, Error, Result};

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("c2pasink", gst::DebugColorFlags::empty(), Some("Signed provenance"))
});

/// State from `start` to `stop`, or to the end of the stream.
struct State {
    /// The path that the user set.
    location: PathBuf,
    /// Where the signed file goes.
    destination: Destination,
    /// The output of the muxer; removed on drop.
    file: NamedTempFile,
    /// Write position of the next buffer in bytes.
    position: u64,
    origin: Origin,
    signer: Signer,
}

#[derive(Default)]
pub struct C2paSink {
    settings: Mutex<Settings>,
    state: Mutex<Option<State>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Creates a temporary file: for a file in its folder, with default permissions; for a stream in the folder of temporary files.
fn temporary_file(destination: &Destination) -> Result<NamedTempFile> {
    let location = match destination {
        Destination::File(location) => location,
        Destination::Stream(_) => {
            return NamedTempFile::new().map_err(Error::io(&std::env::temp_dir()));
        }
    };
    let mut name = location.file_name().unwrap_or_default().to_os_string();
    name.push(".");
    let mut builder = tempfile::Builder::new();
    builder.prefix(&name).suffix(".part");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let folder = location.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    builder.tempfile_in(folder).map_err(Error::io(folder))
}

/// Maps an error to the GStreamer error domain.
fn error_message(error: &Error) -> gst::ErrorMessage {
    let text = error.to_string();
    match error {
        Error::Io { .. } | Error::Output { .. } => gst::error_msg!(gst::ResourceError::OpenWrite, ("{text}")),
        Error::Signer(_) | Error::NoOrigin => gst::error_msg!(gst::ResourceError::Settings, ("{text}")),
        Error::NotMp4(_) => gst::error_msg!(gst::StreamError::Format, ("{text}")),
        _ => gst::error_msg!(gst::LibraryError::Encode, ("{text}")),
    }
}

impl State {
    fn new(settings: &Settings) -> Result<Self, gst::ErrorMessage> {
        let location = settings
            .location
            .clone()
            .ok_or_else(|| Error::Signer("no output file: set location".into()))
            .map_err(|e| error_message(&e))?;
        let origin = Origin {
            models: settings.model.clone().into_iter().collect(),
            provider: settings.provider.clone(),
            ..Origin::default()
        };
        let destination = Destination::of(&location).map_err(|e| error_message(&e))?;
        let file = temporary_file(&destination).map_err(|e| error_message(&e))?;
        let signer = settings.signer().map_err(|error| match error {
            Error::Io { .. } => gst::error_msg!(gst::ResourceError::OpenRead, ("{error}")),
            error => error_message(&error),
        })?;
        Ok(Self { file, location, destination, position: 0, origin, signer })
    }

    fn seek(&mut self, position: u64) -> std::io::Result<()> {
        if position != self.position {
            self.file.seek(SeekFrom::Start(position))?;
            self.position = position;
        }
        Ok(())
    }

    fn write(&mut self, data: &[u8]) -> std::io::Result<()> {
        self.file.write_all(data)?;
        self.position += data.len() as u64;
        Ok(())
    }

    /// Discards everything written so far, after a flush.
    fn reset(&mut self, settings: &Settings) -> std::io::Result<()> {
        self.origin.models = settings.model.clone().into_iter().collect();
        self.origin.clear();
        self.file.as_file().set_len(0)?;
        self.seek(0)
    }

    /// Signs the file, and renames or copies it. Returns its path and the label of the manifest.
    fn finish(mut self, settings: &Settings) -> Result<(PathBuf, String)> {
        let time = glib::DateTime::now_utc().and_then(|now| now.format("%Y-%m-%dT%H:%M:%SZ"));
        let time = time.map_err(|e| Error::Signer(format!("cannot read the time: {e}")))?;
        let mut signed = temporary_file(&self.destination)?;
        let manifest = credentials::sign(
            self.file.as_file_mut(),
            signed.as_file_mut(),
            &self.origin,
            &time,
            settings.embed_prompt,
            &self.signer,
        )?;
        match &self.destination {
            Destination::File(_) => {
                // Sync before the rename, so that a power cut does not leave an incomplete file under the final name.
                signed.as_file().sync_all().map_err(Error::io(&self.location))?;
                let signed = signed.into_temp_path();
                self.destination.replace(&signed)?;
                // The name is free again, so nothing is removed.
                let _ = signed.keep();
            }
            Destination::Stream(_) => self.destination.copy(signed.as_file_mut())?,
        }
        Ok((self.location, manifest))
    }
}

impl C2paSink {
    /// Signs the file at the end of the stream. Returns false after an error.
    fn finish(&self) -> bool {
        let Some(state) = lock(&self.state).take() else { return true };
        let settings = lock(&self.settings).clone();
        match state.finish(&settings) {
            Ok((location, manifest)) => {
                gst::info!(CAT, imp = self, "{}: {manifest}", location.display());
                let structure = gst::Structure::builder("c2pa-signed")
                    .field("location", location.to_string_lossy().into_owned())
                    .field("manifest", manifest)
                    .build();
                let element = self.obj();
                // Posting fails if there is no bus.
                let _ =
                    element.post_message(gst::message::Element::builder(structure).src(&*element).build());
                true
            }
            Err(error) => {
                self.post_error_message(error_message(&error));
                false
            }
        }
    }

    fn post_write_error(&self, error: &std::io::Error) {
        let kind = match error.kind() {
            std::io::ErrorKind::StorageFull => gst::ResourceError::NoSpaceLeft,
            _ => gst::ResourceError::Write,
        };
        gst::element_imp_error!(self, kind, ("cannot write the file: {error}"));
    }
}

#[glib::object_subclass]
impl ObjectSubclass for C2paSink {
    const NAME: &'static str = "GstC2paSink";
    type Type = super::C2paSink;
    type ParentType = gst_base::BaseSink;
}

impl ObjectImpl for C2paSink {
    fn properties() -> &'static [glib::ParamSpec] {
        settings::properties()
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        if !lock(&self.settings).set(pspec.name(), value) {
            unreachable!("GObject knows the properties");
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        lock(&self.settings).get(pspec.name()).unwrap_or_else(|| unreachable!("GObject knows the properties"))
    }

    fn constructed(&self) {
        self.parent_constructed();
        self.obj().set_sync(false);
    }
}

impl GstObjectImpl for C2paSink {}

impl ElementImpl for C2paSink {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "C2PA sink",
                "Sink/File",
                "Writes an MP4 file with a signed C2PA manifest about its origin",
                env!("CARGO_PKG_AUTHORS"),
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let caps = gst::Caps::builder("video/quicktime").build();
            gst::PadTemplate::new("sink", gst::PadDirection::Sink, gst::PadPresence::Always, &caps)
                .into_iter()
                .collect()
        });
        &TEMPLATES
    }
}

impl BaseSinkImpl for C2paSink {
    fn start(&self) -> Result<(), gst::ErrorMessage> {
        // An unusable signer is an error before the first frame is generated.
        let settings = lock(&self.settings).clone();
        let state = State::new(&settings)?;
        *lock(&self.state) = Some(state);
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        // An MP4 without its end cannot be played.
        lock(&self.state).take();
        Ok(())
    }

    fn render(&self, buffer: &gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let map = buffer.map_readable().map_err(|_| {
            gst::element_imp_error!(self, gst::ResourceError::Read, ("cannot map a buffer"));
            gst::FlowError::Error
        })?;
        let written = lock(&self.state).as_mut().ok_or(gst::FlowError::Eos)?.write(&map);
        written.map(|()| gst::FlowSuccess::Ok).map_err(|e| {
            self.post_write_error(&e);
            gst::FlowError::Error
        })
    }

    fn event(&self, event: gst::Event) -> bool {
        let result = match event.view() {
            // Muxers seek back to update sizes and the header.
            gst::EventView::Segment(segment) => {
                match segment.segment().downcast_ref::<gst::format::Bytes>() {
                    Some(segment) => {
                        let to = segment.start().map_or(0, |bytes| *bytes);
                        lock(&self.state).as_mut().map_or(Ok(()), |state| state.seek(to))
                    }
                    None => Ok(()),
                }
            }
            gst::EventView::FlushStop(flush) if flush.resets_time() => {
                let settings = lock(&self.settings).clone();
                lock(&self.state).as_mut().map_or(Ok(()), |state| state.reset(&settings))
            }
            gst::EventView::CustomDownstream(custom) => {
                let shot = custom.structure().filter(|shot| shot.name() == Origin::EVENT);
                let added = match (shot, lock(&self.state).as_mut()) {
                    (Some(shot), Some(state)) => state.origin.add(shot),
                    _ => Ok(()),
                };
                if let Err(error) = added {
                    gst::element_imp_warning!(
                        self,
                        gst::ResourceError::Read,
                        ("the manifest of an input file was not added: {error}")
                    );
                }
                Ok(())
            }
            // The file exists before the end of stream is posted.
            gst::EventView::Eos(_) if !self.finish() => return false,
            _ => Ok(()),
        };
        if let Err(error) = result {
            self.post_write_error(&error);
            return false;
        }
        self.parent_event(event)
    }

    fn query(&self, query: &mut gst::QueryRef) -> bool {
        match query.view_mut() {
            gst::QueryViewMut::Seeking(seeking) => {
                let bytes = seeking.format() == gst::Format::Bytes;
                seeking.set(bytes, gst::format::Bytes::ZERO, gst::format::Bytes::NONE);
                true
            }
            gst::QueryViewMut::Formats(formats) => {
                formats.set([gst::Format::Bytes]);
                true
            }
            gst::QueryViewMut::Position(position) if position.format() == gst::Format::Bytes => {
                let at = lock(&self.state).as_ref().map_or(0, |state| state.position);
                position.set(gst::format::Bytes::from_u64(at));
                true
            }
            _ => BaseSinkImplExt::parent_query(self, query),
        }
    }
}
