//! The references of a causal scene: their pictures in latents, their keys and values for the prompt, and their places.

use candle_core::{DType, Tensor};

use super::conditioning::{TextContexts, encode};
use crate::transformer::{KvCache, Placement, ReferenceKv, WanTransformer};
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
    prompt: Vec<ReferenceKv>,
    negative: Vec<ReferenceKv>,
}

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

    /// Computes the keys and values of the references for these prompts, and first encodes the pictures if they are new.
    pub fn update(
        &mut self,
        model: &Model,
        transformer: &WanTransformer,
        contexts: &TextContexts,
        cancel: &Cancel,
    ) -> Result<()> {
        let pictures = match self.pictures.take() {
            Some(pictures) => pictures,
            None => {
                let pictures = self.plan.pictures();
                pictures
                    .iter()
                    .map(|picture| Picture::encode(picture, model, cancel))
                    .collect::<Result<_>>()?
            }
        };
        let of = |context| {
            let one =
                |picture: &Picture| transformer.reference(&picture.latents, &picture.alpha, context, cancel);
            pictures.iter().map(one).collect::<Result<Vec<_>>>()
        };
        self.prompt = of(&contexts.prompt)?;
        self.negative = contexts.negative.as_ref().map(of).transpose()?.unwrap_or_default();
        self.pictures = Some(pictures);
        Ok(())
    }

    /// Places the references for the latent frame `latent` of the scene.
    pub fn place(
        &self,
        model: &Model,
        latent: usize,
        prompt: &mut KvCache,
        negative: &mut KvCache,
    ) -> Result<()> {
        let [rows, columns] = model.token_pixels();
        let places = self.plan.places(latent);
        let at = |place: &Place| match *place {
            Place::At { x, y } => {
                Some(Placement::At { row: f64::from(y) / rows, column: f64::from(x) / columns })
            }
            Place::Free => Some(Placement::Free),
            Place::Hidden => None,
        };
        let placed = |references: &[ReferenceKv]| {
            let visible = references
                .iter()
                .zip(&places)
                .filter_map(|(reference, place)| Some((reference.clone(), at(place)?)));
            visible.collect::<Vec<_>>()
        };
        prompt.set_references(&placed(&self.prompt))?;
        negative.set_references(&placed(&self.negative))
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
        let latents = encode(model, &video, cancel)?;
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
