// SPDX-License-Identifier: MPL-2.0

//! The stream's tags, which describe the request.

use gst::tags;
use soragen::ModelInfo;

use super::settings::Settings;

/// Title, software, date, and the request as JSON in the comment.
pub fn of(settings: &Settings, info: &ModelInfo) -> gst::TagList {
    let mut list = gst::TagList::new();
    let Some(tags) = list.get_mut() else { return list };
    let software = concat!("soragen ", env!("CARGO_PKG_VERSION"));
    let mode = gst::TagMergeMode::Replace;
    tags.add::<tags::Title>(&settings.prompt.as_deref().unwrap_or_default(), mode);
    tags.add::<tags::ApplicationName>(&software, mode);
    tags.add::<tags::Encoder>(&format!("{software}, {}", info.name).as_str(), mode);
    tags.add::<tags::Comment>(&request(settings, info).as_str(), mode);
    if let Some(now) = gst::DateTime::new_now_utc() {
        tags.add::<tags::DateTime>(&now, mode);
    }
    list
}

fn request(settings: &Settings, info: &ModelInfo) -> String {
    let or = |value: f64, own: f64| if value > 0.0 { value } else { own };
    let Settings { steps, guidance_scale, shift, .. } = *settings;
    serde_json::json!({
        "model": info.name,
        "prompt": settings.prompt,
        "negative_prompt": settings.negative_prompt.as_ref().unwrap_or(&info.negative_prompt),
        "seed": settings.seed,
        "steps": if steps > 0 { steps } else { info.steps },
        "guidance_scale": or(guidance_scale, info.guidance_scale),
        "shift": or(shift, info.shift),
        // Only whether there is one: file names are private.
        "image": settings.image.is_some(),
        "storyboard": settings.storyboard.is_some(),
    })
    .to_string()
}
