// SPDX-License-Identifier: MPL-2.0

//! A request pad for a video beside the main stream.

use std::sync::Mutex;
use std::time::Duration;

use gst::prelude::*;
use gst::subclass::prelude::*;
use soragen::RgbImage;

use super::side_input::SideInput;
use crate::source::lock;

#[derive(Default)]
pub struct SidePad {
    /// If it was requested.
    pad: Mutex<Option<gst::Pad>>,
    pub input: SideInput,
}

impl SidePad {
    /// Adds the pad of `template` to `element`, which finds this with `side` and handles the events of the pad with `on_event`. `None` if
    /// it has the pad already.
    pub fn request<T: ElementImpl>(
        &self,
        element: &T,
        template: &gst::PadTemplate,
        side: fn(&T) -> &Self,
        on_event: fn(&T, &gst::Pad, &gst::Event) -> bool,
    ) -> Option<gst::Pad> {
        let mut own = lock(&self.pad);
        if own.is_some() {
            return None;
        }
        let pad = gst::Pad::builder_from_template(template)
            .name(template.name_template())
            .chain_function(move |_, parent, buffer| {
                let failed = || Err(gst::FlowError::Error);
                T::catch_panic_pad_function(parent, failed, |this| side(this).input.push(buffer))
            })
            .event_function(move |pad, parent, event| {
                T::catch_panic_pad_function(parent, || false, |this| on_event(this, pad, &event))
            })
            .build();
        pad.connect_unlinked(move |pad, _| {
            T::catch_panic_pad_function(pad.parent().as_ref(), || (), |this| side(this).input.end());
        });
        // It may have been released before.
        self.input.reset();
        let _ = pad.set_active(true);
        *own = Some(pad.clone());
        drop(own);
        element.obj().add_pad(&pad).ok()?;
        Some(pad)
    }

    /// Removes the pad from `element`.
    pub fn release(&self, element: &impl IsA<gst::Element>, pad: &gst::Pad) {
        self.input.close();
        let _ = pad.set_active(false);
        let _ = element.remove_pad(pad);
        *lock(&self.pad) = None;
    }

    pub fn is_linked(&self) -> bool {
        lock(&self.pad).as_ref().is_some_and(gst::Pad::is_linked)
    }

    /// The frame at this running time, as [`SideInput::frame_at`]; `None` if the pad is not linked.
    pub fn frame_at(&self, time: Duration) -> Result<Option<RgbImage>, gst::FlowError> {
        if self.is_linked() { self.input.frame_at(time) } else { Ok(None) }
    }
}
