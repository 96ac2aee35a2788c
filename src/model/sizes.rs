//! The frame sizes that a model can make.

use crate::Size;

/// The longest side that is offered, in pixels. Memory limits larger frames, not the model.
pub(super) const MAX_SIDE: u32 = 4096;

/// The frame sizes that a model can make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// These sizes only; the first is the default.
    Exact(Vec<Size>),
    /// Both sides are a multiple of `step` from `min` to `max`, in pixels.
    Multiple {
        /// Distance between sides.
        step: u32,
        /// Shortest side.
        min: u32,
        /// Longest side.
        max: u32,
        /// The default size.
        default: Size,
    },
}

impl Sizes {
    /// The default size.
    pub fn default_size(&self) -> Size {
        match self {
            Self::Exact(sizes) => sizes[0],
            Self::Multiple { default, .. } => *default,
        }
    }

    /// The default size of a video that starts from an image of `width` × `height`: the aspect ratio nearest
    /// to the image's, with about as many pixels as the default size.
    pub fn like(&self, width: u32, height: u32) -> Size {
        let log_ratio = |width: u32, height: u32| (f64::from(width.max(1)) / f64::from(height.max(1))).ln();
        let wanted = log_ratio(width, height);
        match self {
            Self::Exact(sizes) => {
                let distance = |size: &Size| (log_ratio(size.width, size.height) - wanted).abs();
                *sizes.iter().min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(&sizes[0])
            }
            Self::Multiple { step, min, max, default } => {
                let side = (f64::from(default.width) * f64::from(default.height)).sqrt();
                let rounded = |side: f64| {
                    let steps = (side / f64::from(*step)).round() as u32;
                    steps.saturating_mul(*step).clamp(*min, *max)
                };
                let half = (wanted / 2.0).exp();
                Size { width: rounded(side * half), height: rounded(side / half) }
            }
        }
    }

    /// Whether the model can make `size`.
    pub fn contains(&self, size: Size) -> bool {
        match self {
            Self::Exact(sizes) => sizes.contains(&size),
            Self::Multiple { step, min, max, .. } => {
                [size.width, size.height].iter().all(|side| side % step == 0 && side >= min && side <= max)
            }
        }
    }
}

impl std::fmt::Display for Sizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(sizes) => {
                let sizes: Vec<_> = sizes.iter().map(Size::to_string).collect();
                f.write_str(&sizes.join(", "))
            }
            Self::Multiple { step, min, max, default } => {
                write!(f, "{default}, or any with both sides a multiple of {step} from {min} to {max}")
            }
        }
    }
}
