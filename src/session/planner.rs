//! Plans the subjects of shots, for a model with references.

use std::time::Duration;

use super::conditioning::TextConditioner;
use crate::error::refuse;
use crate::reference::Reference;
use crate::request::Shot;
use crate::text::weighted::main_part;
use crate::world::{MotionPath, Plan, PlanInputs};
use crate::{Cancel, Model, Result, Setting, Size};

/// The references of the request and of the current shot, and its plan.
#[derive(Default)]
pub struct Planner {
    request: ReferenceSettings,
    shot: ReferenceSettings,
    plan: Plan,
    /// When the scene began, in seconds of the video.
    scene_begin: f64,
    /// Latent frames of the video that the scene continues: before the scene, and in it.
    continued: Option<[usize; 2]>,
    /// Whether the scene starts from an image: its subject is there, and needs no drawing.
    image: bool,
    outdated: bool,
}

/// References and their path.
#[derive(Clone, Default)]
struct ReferenceSettings {
    references: Vec<Reference>,
    path: Option<MotionPath>,
    /// When the path begins, in seconds of the video.
    path_begin: f64,
}

impl Planner {
    /// A planner with the references and the path of a request.
    pub fn new(references: Vec<Reference>, path: Option<MotionPath>) -> Self {
        Self { request: ReferenceSettings { references, path, path_begin: 0.0 }, ..Self::default() }
    }

    /// Begins `shot` at `seconds` of the video. A `live` prompt keeps the references and the path of the shot before.
    pub fn begin_shot(&mut self, shot: &Shot, begins_scene: bool, live: bool, seconds: f64) {
        if begins_scene {
            self.image = shot.image.is_some();
            self.plan = Plan::default();
            self.scene_begin = seconds;
            self.continued = None;
        }
        if !live {
            let Shot { references, motion_path, .. } = shot.clone();
            self.shot = ReferenceSettings { references, path: motion_path, path_begin: seconds };
        }
        self.outdated = true;
    }

    /// The scene continues a video: `latents` latent frames of it, each of this duration, are in the scene, and `before` are not.
    pub fn continue_video(&mut self, before: usize, latents: usize, duration: Duration) {
        self.scene_begin -= duration.as_secs_f64() * latents as f64;
        self.continued = Some([before, latents]);
    }

    /// Shows other references from the next chunk on.
    pub fn set_references(&mut self, references: Vec<Reference>) {
        self.request.references = references;
        self.shot.references.clear();
        self.outdated = true;
    }

    /// Moves the references along another path, which begins at `seconds` of the video.
    pub fn set_motion_path(&mut self, path: Option<MotionPath>, seconds: f64) {
        self.request.path = path;
        self.request.path_begin = seconds;
        self.shot.path = None;
        self.outdated = true;
    }

    /// The plan from the latent frame `begin` on, if it is another than before.
    pub fn next(
        &mut self,
        text: &TextConditioner,
        size: Size,
        prompt: &str,
        begin: usize,
        cancel: &Cancel,
    ) -> Result<Option<Plan>> {
        let model = &*text.model;
        let Some(world) = model.world().filter(|_| std::mem::take(&mut self.outdated)) else {
            return Ok(None);
        };
        let references = self.current_references();
        let with_path = [&self.shot, &self.request].into_iter().find(|settings| settings.path.is_some());
        let path = with_path
            .and_then(|settings| Some((settings.path.as_ref()?, settings.path_begin - self.scene_begin)));
        self.plan = match references.is_empty() && self.image {
            true => Plan::default(),
            false => {
                let bank = world.bank(&model.source)?;
                let inputs = PlanInputs { world, bank, size, latent: latent_duration(model) };
                let similar = |phrase: &str| bank.similar(&text.embed_text(phrase, cancel)?);
                // Of a blend, the subject is that of the main part.
                inputs.plan(&main_part(prompt), references, path, begin, &self.plan, similar)?
            }
        };
        if let Some([before, latents]) = self.continued.take() {
            // The shot begins after those in the scene.
            self.plan.continue_motions(before + latents, latents);
        }
        Ok(Some(self.plan.clone()))
    }

    /// The references that a user has set.
    pub fn current_references(&self) -> &[Reference] {
        if self.shot.references.is_empty() { &self.request.references } else { &self.shot.references }
    }

    /// Digests of the references that a user has set.
    pub fn digests(&self) -> Vec<String> {
        self.current_references().iter().map(Reference::digest).collect()
    }

    /// The references that the shot shows.
    pub fn references(&self) -> Vec<Reference> {
        self.plan.references()
    }
}

/// Refuses references to drawings that the model does not have.
pub fn check_names<'a>(model: &Model, references: impl IntoIterator<Item = &'a Reference>) -> Result<()> {
    let mut names = references.into_iter().filter_map(|reference| match reference {
        Reference::Bank(name) => Some(name),
        Reference::Picture(_) => None,
    });
    match (model.world(), names.next()) {
        (_, None) => Ok(()),
        (Some(world), Some(first)) => {
            let bank = world.bank(&model.source)?;
            [first].into_iter().chain(names).try_for_each(|name| bank.find(name).map(|_| ()))
        }
        (None, Some(_)) => {
            let reason = format!("{} has no drawings of its own; use the path of a picture", model.info.name);
            refuse(Setting::Reference, reason)
        }
    }
}

/// Duration of a latent frame.
pub fn latent_duration(model: &Model) -> Duration {
    let (numerator, denominator) = model.info.frame_rate;
    let frames = model.autoencoder.config().temporal_factor() as f64;
    Duration::from_secs_f64(frames * f64::from(denominator) / f64::from(numerator.max(1)))
}
