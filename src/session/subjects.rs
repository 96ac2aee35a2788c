//! The references of a causal scene: their pictures in latents, their keys and values for the prompt, and their places.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::conditioning::TextContexts;
use super::overlay::{OverlayPicture, SubjectPicture, displacement, overlay};
use crate::transformer::{Context, KvCache, Placement, ReferenceKv, Shift, WanTransformer};
use crate::world::{Place, Plan};
use crate::{Cancel, Model, Result};

/// What every chunk of a scene shows.
#[derive(Default)]
pub struct Subjects {
    plan: Plan,
    /// `None` until they are encoded.
    pictures: Option<Vec<SubjectPicture>>,
    prompt: Views,
    negative: Views,
}

/// The references by number of the picture and shift. They are computed for the first chunk that shows them.
type Views = HashMap<(usize, Shift), ReferenceKv>;

impl Subjects {
    /// Returns whether there are other pictures than before.
    pub fn set_plan(&mut self, plan: Plan) -> bool {
        let before = std::mem::replace(&mut self.plan, plan);
        let others = before.picture_keys() != self.plan.picture_keys();
        if others {
            self.pictures = None;
        }
        others
    }

    /// Whether [`update`](Self::update) is due.
    pub fn need_update(&self) -> bool {
        self.pictures.is_none()
    }

    /// Encodes the pictures if they are new, and forgets the references of other prompts.
    pub fn update(&mut self, model: &Model, cancel: &Cancel) -> Result<()> {
        self.prompt.clear();
        self.negative.clear();
        if self.pictures.is_none() {
            let pictures = self.plan.pictures();
            let encoded = pictures.iter().map(|picture| SubjectPicture::encode(picture, model, cancel));
            self.pictures = Some(encoded.collect::<Result<_>>()?);
        }
        Ok(())
    }

    /// Moves the camera to where it is in the latent frame `latent` of the scene.
    pub fn move_camera(
        &self,
        model: &Model,
        transformer: &WanTransformer,
        latent: usize,
        caches: [&mut KvCache; 2],
    ) {
        let column = model.autoencoder.config().spatial_factor() * transformer.config().patch_size[2];
        let columns = self.plan.camera(latent) as f64 / column as f64;
        caches.into_iter().for_each(|cache| cache.set_camera(columns));
    }

    /// Places the references for the latent frame `latent` of the scene.
    pub fn place(
        &mut self,
        model: &Model,
        transformer: &WanTransformer,
        contexts: &TextContexts,
        latent: usize,
        caches: [&mut KvCache; 2],
        cancel: &Cancel,
    ) -> Result<()> {
        let Some(pictures) = &self.pictures else { unreachable!("`update` comes first") };
        let pixels = model.autoencoder.config().spatial_factor() as f64;
        let at = |place: Place| match place {
            Place::At { x, y } => Some(transformer.placement(f64::from(y) / pixels, f64::from(x) / pixels)),
            Place::Free => Some(([0, 0], Placement::Free)),
            Place::Hidden => None,
        };
        let visible: Vec<_> =
            (0..).zip(self.plan.places(latent)).filter_map(|(i, place)| Some((i, at(place)?))).collect();
        let placed = |views: &mut Views, context: &Context| {
            let one = |&(i, (shift, placement)): &(usize, (Shift, Placement))| -> Result<_> {
                let reference = match views.entry((i, shift)) {
                    Entry::Occupied(known) => known.get().clone(),
                    Entry::Vacant(new) => {
                        let OverlayPicture { latents, alpha } = &pictures[i].still;
                        new.insert(transformer.reference(latents, alpha, shift, context, cancel)?).clone()
                    }
                };
                Ok((reference, placement))
            };
            visible.iter().map(one).collect::<Result<Vec<_>>>()
        };
        let [prompt, negative] = caches;
        prompt.set_references(&placed(&mut self.prompt, &contexts.prompt)?)?;
        if let Some(context) = &contexts.negative {
            negative.set_references(&placed(&mut self.negative, context)?)?;
        }
        Ok(())
    }

    /// Covers the latent frame `latent` of the scene, which has these rows and columns of latents, with the references at their places, for a
    /// model with overlays.
    pub fn cover(
        &mut self,
        model: &Model,
        transformer: &WanTransformer,
        latent: usize,
        grid: [usize; 2],
        caches: [&mut KvCache; 2],
        cancel: &Cancel,
    ) -> Result<()> {
        let Some(pictures) = self.pictures.as_mut().filter(|_| transformer.config().reference_overlay) else {
            return Ok(());
        };
        let pixels = model.autoencoder.config().spatial_factor() as i32;
        let (places, before) = (self.plan.places(latent), self.plan.places_before(latent));
        let mut shown = Vec::new();
        for ((picture, place), before) in pictures.iter_mut().zip(places).zip(before) {
            let Place::At { x, y } = place else { continue };
            let (by, corner) = displacement([y, x], before, pixels);
            let picture = if latent == 0 { &picture.still } else { picture.moved(by, model, cancel)? };
            shown.push((picture.clone(), corner));
        }
        let overlay = overlay(&shown, grid)?;
        caches.into_iter().for_each(|cache| cache.set_overlay(overlay.clone()));
        Ok(())
    }
}
