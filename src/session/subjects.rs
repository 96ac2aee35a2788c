//! The references of a causal scene: their pictures in latents, their keys and values for the prompt, and their places.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use candle_core::{DType, Tensor};

use super::conditioning::{TextContexts, encode};
use crate::transformer::{Context, KvCache, Placement, ReferenceKv, Shift, WanTransformer};
use crate::world::{FacingPicture, Place, Plan};
use crate::{Cancel, Model, Result};

/// Grey behind a reference, of 1.
const GROUND: f32 = 0.5;

/// What every chunk of a scene shows.
#[derive(Default)]
pub struct Subjects {
    plan: Plan,
    /// `None` until they are encoded.
    pictures: Option<Vec<Picture>>,
    prompt: Views,
    negative: Views,
}

/// The references by number of the picture and shift. They are computed for the first chunk that shows them.
type Views = HashMap<(usize, Shift), ReferenceKv>;

/// A picture on grey.
struct Picture {
    /// `[1, C, 1, H, W]`.
    latents: Tensor,
    /// `[1, alpha values per latent, 1, H, W]`.
    alpha: Tensor,
}

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
            let encoded = pictures.iter().map(|picture| Picture::encode(picture, model, cancel));
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
                        let Picture { latents, alpha } = &pictures[i];
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
}

impl Picture {
    fn encode(picture: &FacingPicture, model: &Model, cancel: &Cancel) -> Result<Self> {
        let Some(world) = model.world() else { unreachable!("a plan with references has a world") };
        let side = world.side as usize;
        let square = picture.in_square(world.bank(&model.source)?, world.side)?;
        let square = Tensor::from_vec(square, (side, side, 4), &model.device)?.permute((2, 0, 1))?;
        let alpha = square.narrow(0, 3, 1)?;
        let on_grey =
            (square.narrow(0, 0, 3)?.broadcast_sub(&(&alpha * f64::from(GROUND))?)? + f64::from(GROUND))?;
        let video = ((on_grey * 2.0)? - 1.0)?.contiguous()?.unsqueeze(1)?.unsqueeze(0)?;
        let latents = encode(model, &video, &mut model.autoencoder.encoder_state(), cancel)?;
        let (_, _, _, height, width) = latents.dims5()?;
        let [rows, columns] = model.reference_alpha();
        let (cell_height, cell_width) = (side / height / rows, side / width / columns);
        let alpha = alpha
            .contiguous()?
            .reshape((height, rows, cell_height, width, columns, cell_width))?
            .mean((2, 5))?
            .permute((1, 3, 0, 2))?
            .contiguous()?
            .reshape((1, rows * columns, 1, height, width))?;
        Ok(Self { latents: latents.to_dtype(model.dtype())?, alpha: alpha.to_dtype(DType::F32)? })
    }
}
