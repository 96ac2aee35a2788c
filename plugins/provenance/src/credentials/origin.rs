// SPDX-License-Identifier: MPL-2.0

//! What made a stream, as the stream says.

use std::path::Path;

use soragen::watermark::GenerationId;

use super::Ingredient;
use crate::Result;

/// Of a stream without end not all prompts are kept.
const MAX_PROMPTS: usize = 256;

/// What made a video. Several sources may have been joined in one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The program, and its version.
    pub software: Option<(String, String)>,
    /// The models.
    pub models: Vec<String>,
    /// What the invisible marks say; none where there is no mark.
    pub marks: Vec<GenerationId>,
    /// What was asked for, shot by shot.
    pub prompts: Vec<String>,
    /// Who runs the generator.
    pub provider: Option<String>,
    /// The pictures that it starts from, if they say themselves where they are from.
    pub ingredients: Vec<Ingredient>,
    /// The files that were looked at for these: they come with every shot.
    pub pictures: Vec<String>,
}

impl Origin {
    /// The event before each shot of the element `soragen`.
    pub const EVENT: &'static str = "soragen-shot";

    /// Adds what an [`EVENT`](Self::EVENT) says.
    ///
    /// # Errors
    /// The first of [`Ingredient::open`]'s; all the rest was added.
    pub fn add(&mut self, shot: &gst::StructureRef) -> Result<()> {
        let text = |name: &str| shot.get::<String>(name).ok().filter(|text| !text.is_empty());
        if let Some((software, version)) = text("software").zip(text("version")) {
            self.software = Some((software, version));
        }
        let mark = shot.get::<u64>("generation-id").ok().map(GenerationId::new);
        add_new(&mut self.models, text("model"));
        add_new(&mut self.marks, mark);
        if self.prompts.len() < MAX_PROMPTS {
            add_new(&mut self.prompts, text("prompt"));
        }
        let images = shot.get::<gst::List>("images").ok();
        let paths =
            images.iter().flat_map(|images| images.iter()).filter_map(|path| path.get::<String>().ok());
        let mut failed = None;
        for path in paths {
            if self.pictures.contains(&path) {
                continue;
            }
            match Ingredient::open(Path::new(&path)) {
                Ok(ingredient) => add_new(&mut self.ingredients, ingredient),
                Err(error) => failed = failed.or(Some(error)),
            }
            self.pictures.push(path);
        }
        failed.map_or(Ok(()), Err)
    }

    /// Forgets what was said of one video, for another.
    pub fn clear(&mut self) {
        self.marks.clear();
        self.prompts.clear();
        self.ingredients.clear();
        self.pictures.clear();
    }

    /// Program and version; this one's where the stream does not say.
    pub(super) fn software(&self) -> (&str, &str) {
        match &self.software {
            Some((name, version)) => (name, version),
            None => ("soragen", env!("CARGO_PKG_VERSION")),
        }
    }
}

fn add_new<T: PartialEq>(all: &mut Vec<T>, one: Option<T>) {
    all.extend(one.filter(|one| !all.contains(one)));
}
