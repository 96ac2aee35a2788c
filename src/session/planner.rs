//! Plans the subjects of shots, for a model with references.

use std::time::Duration;

use super::conditioning::TextConditioner;
use crate::reference::Reference;
use crate::request::Shot;
use crate::world::{MotionPath, Plan, Stage};
use crate::{Cancel, Model, Result, Size};

/// The references of the request and of the current shot, and its plan.
#[derive(Default)]
pub struct Planner {
    request: Cast,
    shot: Cast,
    plan: Plan,
    /// Latent frame of the scene at which the path of the shot begins.
    path_begin: usize,
    /// Whether the scene starts from an image: its subject is there, and needs no drawing.
    image: bool,
    outdated: bool,
}

/// References and their paths.
#[derive(Clone, Default)]
struct Cast {
    references: Vec<Reference>,
    path: Option<MotionPath>,
}

impl Planner {
    /// A planner with the references and the path of a request.
    pub fn new(references: Vec<Reference>, path: Option<MotionPath>) -> Self {
        Self { request: Cast { references, path }, ..Self::default() }
    }

    /// Begins `shot` at the latent frame `begin` of its scene. A `live` prompt goes on with the path of the shot before.
    pub fn begin_shot(&mut self, shot: &Shot, begin: usize, live: bool) {
        if begin == 0 {
            self.image = shot.image.is_some();
            self.plan = Plan::default();
        }
        if !live {
            self.shot = Cast { references: shot.references.clone(), path: shot.motion_path.clone() };
            self.path_begin = begin;
        }
        self.outdated = true;
    }

    /// Shows other references from the next chunk on.
    pub fn set_references(&mut self, references: Vec<Reference>) {
        self.request.references = references;
        self.shot.references.clear();
        self.outdated = true;
    }

    /// Moves the references along another path, which begins at the latent frame `begin`.
    pub fn set_motion_path(&mut self, path: Option<MotionPath>, begin: usize) {
        self.request.path = path;
        self.shot.path = None;
        self.path_begin = begin;
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
        let own = &self.shot.references;
        let references = if own.is_empty() { &self.request.references } else { own };
        let path = self.shot.path.as_ref().or(self.request.path.as_ref());
        self.plan = match references.is_empty() && self.image {
            true => Plan::default(),
            false => {
                let bank = world.bank(&model.source)?;
                let stage = Stage { world, bank, width: size.width, latent: latent_duration(model) };
                let similar = |phrase: &str| bank.similar(&text.embed(phrase, cancel)?);
                stage.plan(prompt, references, path, (begin, self.path_begin), &self.plan, similar)?
            }
        };
        Ok(Some(self.plan.clone()))
    }

    /// The references that the shot shows.
    pub fn references(&self) -> Vec<Reference> {
        self.plan.references()
    }
}

/// Refuses references to drawings that the model does not have.
pub fn check_names<'a>(model: &Model, references: impl IntoIterator<Item = &'a Reference>) -> Result<()> {
    let Some(world) = model.world() else { return Ok(()) };
    let mut names = references.into_iter().filter_map(|reference| match reference {
        Reference::Bank(name) => Some(name),
        Reference::Picture(_) => None,
    });
    names.try_for_each(|name| world.bank(&model.source)?.find(name).map(|_| ()))
}

/// Duration of a latent frame.
fn latent_duration(model: &Model) -> Duration {
    let (numerator, denominator) = model.info.frame_rate;
    let frames = model.autoencoder.config().temporal_factor() as f64;
    Duration::from_secs_f64(frames * f64::from(denominator) / f64::from(numerator.max(1)))
}
