// SPDX-License-Identifier: MPL-2.0

//! The properties: those of `soragen` that a filter has too, and its own.

use std::sync::LazyLock;

use gst::glib;
use gst::prelude::*;
use soragen::{Request, Restyle, Setting};

use crate::source::{self, Change};

/// Which frames that come in are frames of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstSoraFilterRateMode")]
#[non_exhaustive]
pub enum RateMode {
    /// Frames are dropped and repeated, so that motion keeps its speed.
    #[default]
    #[enum_value(
        name = "Model: as many frames per second as the model makes, so that motion keeps its speed",
        nick = "model"
    )]
    Model,
    /// Each frame.
    #[enum_value(name = "Every: each frame that comes in", nick = "every")]
    Every,
}

/// The properties of `soragen` that a filter has too.
const SHARED: [&str; 25] = [
    "prompt",
    "negative-prompt",
    "model",
    "transformer",
    "text-encoder",
    "autoencoder",
    "recipe",
    "lora",
    "device",
    "precision",
    "decoder",
    "threads",
    "offload",
    "reference",
    "motion-path",
    "blend-chunks",
    "seed",
    "guidance-scale",
    "shift",
    "policy",
    "audit-log",
    "label",
    "watermark",
    "watermark-key",
    "watermark-strength",
];

/// The values of the properties.
#[derive(Clone, Debug)]
pub struct Settings {
    pub shared: source::Settings,
    pub restyle: Restyle,
    pub rate_mode: RateMode,
    /// The file that the video comes from.
    pub ingredient: Option<String>,
    /// How much the pads `control` and `mask` steer.
    pub control_scale: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            shared: source::Settings::default(),
            restyle: Restyle::default(),
            rate_mode: RateMode::default(),
            ingredient: None,
            control_scale: 1.0,
        }
    }
}

impl Settings {
    /// Sets a property. Returns false if there is none of this name.
    pub fn set(&mut self, name: &str, value: &glib::Value) -> bool {
        match name {
            "strength" => self.restyle.strength = read(value),
            "motion-noise" => self.restyle.motion_noise = read(value),
            "rate-mode" => self.rate_mode = read(value),
            "ingredient" => {
                self.ingredient = read::<Option<String>>(value).filter(|path| !path.is_empty());
            }
            "vace" => self.shared.vace = read::<Option<String>>(value).filter(|path| !path.is_empty()),
            "control-scale" => self.control_scale = read(value),
            name => return self.shared.set(name, value),
        }
        true
    }

    /// The value of a property.
    pub fn get(&self, name: &str) -> Option<glib::Value> {
        Some(match name {
            "strength" => self.restyle.strength.to_value(),
            "motion-noise" => self.restyle.motion_noise.to_value(),
            "rate-mode" => self.rate_mode.to_value(),
            "ingredient" => self.ingredient.to_value(),
            "vace" => self.shared.vace.to_value(),
            "control-scale" => self.control_scale.to_value(),
            name => return self.shared.get(name),
        })
    }

    /// The value of a property that may change while a video is restyled; `None` for other properties, and for those that frames carry.
    pub fn change_of(&self, property: &str) -> Option<Change> {
        match property {
            "control-scale" => Some(Change::ControlScale(self.control_scale)),
            property => self.shared.change_of(property),
        }
    }

    /// The changes to a video that is being restyled with the settings `before`.
    pub fn changes_since(&self, before: &Self) -> Vec<Change> {
        let names = specs().iter().map(|spec| spec.name());
        Change::between(names, |name| self.change_of(name), |name| before.change_of(name))
    }

    /// The request for an endless video. Its size is set when the first frame comes.
    ///
    /// # Errors
    /// [`soragen::Error::Request`] without a prompt, and those of the files that it reads.
    pub fn request(&self) -> soragen::Result<Request> {
        if !self.shared.has_prompt() {
            let reason = "the prompt is empty; set `prompt` to what the video should show";
            return Err(soragen::Error::Request(Setting::Prompt, reason.into()));
        }
        let mut request = self.shared.request(None, None)?;
        request.restyle = Some(self.restyle);
        request.control_scale = self.control_scale;
        // The watermark follows the time of the frames that come out, which may have gaps.
        request.embed_watermark = false;
        Ok(request)
    }
}

fn read<'a, T: glib::value::FromValue<'a>>(value: &'a glib::Value) -> T {
    value.get().unwrap_or_else(|_| unreachable!("GObject checks the type"))
}

/// The specifications of all properties.
pub fn specs() -> &'static [glib::ParamSpec] {
    static SPECS: LazyLock<Vec<glib::ParamSpec>> =
        LazyLock::new(|| source::specs_of(&SHARED).into_iter().chain(own()).collect());
    &SPECS
}

fn own() -> [glib::ParamSpec; 7] {
    let defaults = Restyle::default();
    let share = |name: &'static str| glib::ParamSpecDouble::builder(name).minimum(0.0).maximum(1.0);
    [
        share("strength")
            .nick("Strength")
            .blurb("How much the video is changed, from 0, which keeps it, to 1, which ignores it")
            .default_value(defaults.strength)
            .mutable_playing()
            .controllable()
            .build(),
        share("motion-noise")
            .nick("Motion noise")
            .blurb("How much the strength falls where the video moves fast")
            .default_value(defaults.motion_noise)
            .mutable_playing()
            .controllable()
            .build(),
        glib::ParamSpecEnum::builder_with_default("rate-mode", RateMode::default())
            .nick("Rate mode")
            .blurb("Which frames that come in are frames of the model (default: model)")
            .mutable_ready()
            .build(),
        glib::ParamSpecString::builder("ingredient")
            .nick("Ingredient")
            .blurb("File that the video comes from; a signer records it, with its manifest if it has one (unset = none)")
            .mutable_ready()
            .build(),
        glib::ParamSpecString::builder("vace")
            .nick("VACE")
            .blurb("File or folder of a VACE transformer whose control branch is added to the model, for the pads control and mask \
                    (unset = none)")
            .mutable_ready()
            .build(),
        glib::ParamSpecDouble::builder("control-scale")
            .nick("Control scale")
            .blurb("How much the pads control and mask steer the video; 1 as the model was trained; while playing, it counts from the next chunk")
            .maximum(2.0)
            .default_value(1.0)
            .mutable_playing()
            .controllable()
            .build(),
        glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
            .nick("Statistics")
            .blurb("frames: number of frames that came out; dropped: number of frames that were too late; fps: frames per second \
                    that the model makes; chunk-ns: time that the last chunk took; latency-ns: latency that is reported")
            .read_only()
            .build(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_shared_properties_exist() {
        gst::init().unwrap();
        let names: Vec<_> = specs().iter().map(|spec| spec.name()).collect();
        assert!(SHARED.iter().all(|name| names.contains(name)), "{names:?}");
        assert_eq!(names.len(), SHARED.len() + 7);
        let mut settings = Settings::default();
        for spec in specs().iter().filter(|spec| spec.name() != "stats") {
            let value = settings.get(spec.name()).unwrap();
            assert!(settings.set(spec.name(), &value), "{}", spec.name());
        }
    }
}
