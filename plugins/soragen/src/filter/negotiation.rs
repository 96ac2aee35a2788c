// SPDX-License-Identifier: MPL-2.0

//! The formats of the source pad. Both pads have the same size.

use gst::prelude::*;
use gst_video::VideoInfo;
use soragen::{Size, Sizes};

use crate::source::caps;
use crate::source::frame_time::Rate;

/// The caps that the sink pad accepts for a model with these sizes, if downstream accepts `peer`. With `same_rate` both pads have the
/// same frame rate too.
pub fn of_sink(sizes: &Sizes, peer: &gst::Caps, same_rate: bool) -> gst::Caps {
    let possible = caps::of_input(sizes);
    if peer.is_any() {
        return possible;
    }
    let mut wanted = gst::Caps::new_empty();
    // A variable rate goes through `rate-mode=every` as it is.
    let mut offered = caps::of_sizes(sizes);
    if same_rate {
        offered.make_mut().set("framerate", gst::FractionRange::new(0, i32::MAX));
    }
    for structure in peer.intersect(&offered).iter() {
        let mut same = gst::Structure::new_empty("video/x-raw");
        for field in ["width", "height", "framerate"].into_iter().take(if same_rate { 3 } else { 2 }) {
            if let Ok(value) = structure.value(field) {
                same.set_value(field, value.clone());
            }
        }
        wanted.merge(gst::Caps::builder_full().structure(same).build());
    }
    possible.intersect(&wanted)
}

/// Chooses the format of the source pad: frames of `size` at `rate`, or without a fixed rate.
pub fn of_src(src: &gst::Pad, size: Size, rate: Option<Rate>) -> Option<VideoInfo> {
    let mut possible = caps::of_sizes(&Sizes::Exact(vec![size]));
    let fraction = rate.map_or(gst::Fraction::new(0, 1), |(n, d)| gst::Fraction::new(n as i32, d as i32));
    possible.make_mut().set("framerate", fraction);
    let mut chosen = src.peer_query_caps(Some(&possible));
    if chosen.is_empty() {
        return None;
    }
    chosen.make_mut();
    caps::fixate(&mut chosen, size, rate.unwrap_or((0, 1)));
    chosen.fixate();
    let is_possible = chosen.iter().all(caps::is_possible);
    VideoInfo::from_caps(&chosen).ok().filter(|_| is_possible)
}
