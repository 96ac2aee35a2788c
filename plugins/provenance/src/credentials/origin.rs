// SPDX-License-Identifier: MPL-2.0

//! The origin of a video, from the events in its stream.

use std::path::Path;

use soragen::watermark::GenerationId;

use super::{COMPOSITE, Ingredient, TRAINED};
use crate::Result;

/// Limit for live streams, which have any number of prompts.
const MAX_PROMPTS: usize = 256;

/// The origin of a video. A video can be joined from several sources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Name and version of the program.
    pub software: Option<(String, String)>,
    /// Names of the models.
    pub models: Vec<String>,
    /// Ids in the watermarks; empty without a watermark.
    pub generation_ids: Vec<GenerationId>,
    /// Prompts of the shots.
    pub prompts: Vec<String>,
    /// Operator of the generator.
    pub provider: Option<String>,
    /// Input images that have a manifest.
    pub ingredients: Vec<Ingredient>,
    /// Whether a video was changed, and not made anew.
    pub restyled: bool,
    /// That video, if it has a manifest.
    pub parent: Option<Ingredient>,
    /// Paths of all input files that were read. Every shot repeats its paths, and each file is read once.
    pub images: Vec<String>,
}

impl Origin {
    /// Name of the event that `soragen` sends before each shot.
    pub const EVENT: &'static str = "soragen-shot";

    /// Adds the fields of an [`EVENT`](Self::EVENT).
    ///
    /// # Errors
    /// The first error of [`Ingredient::open`] and [`Ingredient::open_video`]. All other fields are added nevertheless.
    pub fn add(&mut self, shot: &gst::StructureRef) -> Result<()> {
        let text = |name: &str| shot.get::<String>(name).ok().filter(|text| !text.is_empty());
        if let Some((software, version)) = text("software").zip(text("version")) {
            self.software = Some((software, version));
        }
        let generation_id = shot.get::<u64>("generation-id").ok().map(GenerationId::new);
        add_new(&mut self.models, text("model"));
        add_new(&mut self.generation_ids, generation_id);
        if self.prompts.len() < MAX_PROMPTS {
            add_new(&mut self.prompts, text("prompt"));
        }
        let images = shot.get::<gst::List>("images").ok();
        let paths =
            images.iter().flat_map(|images| images.iter()).filter_map(|path| path.get::<String>().ok());
        let mut first_error = None;
        self.restyled |= shot.get::<bool>("restyled").unwrap_or_default();
        if let Some(path) = text("ingredient").filter(|path| !self.images.contains(path)) {
            match Ingredient::open_video(Path::new(&path)) {
                Ok(parent) => self.parent = self.parent.take().or(parent),
                Err(error) => first_error = Some(error),
            }
            self.images.push(path);
        }
        for path in paths {
            if self.images.contains(&path) {
                continue;
            }
            match Ingredient::open(Path::new(&path)) {
                Ok(ingredient) => add_new(&mut self.ingredients, ingredient),
                Err(error) => first_error = first_error.or(Some(error)),
            }
            self.images.push(path);
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Clears everything about the video itself, but keeps software, models and provider.
    pub fn clear(&mut self) {
        self.generation_ids.clear();
        self.prompts.clear();
        self.ingredients.clear();
        self.images.clear();
        (self.restyled, self.parent) = (false, None);
    }

    /// IPTC digital source type.
    pub(super) fn source_type(&self) -> &'static str {
        if self.restyled { COMPOSITE } else { TRAINED }
    }

    /// Name and version of the program; the default is this version of soragen.
    pub(super) fn software(&self) -> (&str, &str) {
        match &self.software {
            Some((name, version)) => (name, version),
            None => ("soragen", env!("CARGO_PKG_VERSION")),
        }
    }
}

fn add_new<T: PartialEq>(values: &mut Vec<T>, value: Option<T>) {
    values.extend(value.filter(|value| !values.contains(value)));
}
