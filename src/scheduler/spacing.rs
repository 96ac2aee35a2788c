//! How noise levels are distributed between the first and the last.

use super::linspace;

/// A spacing in place of the schedule's own: diffusers' `use_karras_sigmas`, `use_exponential_sigmas`, `use_beta_sigmas`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    /// Even in the seventh root (<https://arxiv.org/abs/2206.00364>).
    Karras,
    /// Even in the logarithm.
    Exponential,
    /// By quantiles of Beta(0.6, 0.6): denser at both ends (<https://arxiv.org/abs/2407.12173>).
    Beta,
}

impl Spacing {
    /// As many levels as `levels`, with the same ends.
    pub(super) fn apply(self, levels: &[f64]) -> Vec<f64> {
        const RHO: i32 = 7;
        let (Some(&first), Some(&last)) = (levels.first(), levels.last()) else { return vec![] };
        let even = |from: f64, to: f64| linspace(from, to, levels.len()).into_iter();
        match self {
            Self::Karras => {
                let root = |x: f64| x.powf(1.0 / f64::from(RHO));
                even(root(first), root(last)).map(|x| x.powi(RHO)).collect()
            }
            Self::Exponential => even(first.ln(), last.ln()).map(f64::exp).collect(),
            Self::Beta => even(1.0, 0.0).map(|p| last + quantile(p) * (first - last)).collect(),
        }
    }
}

/// Both parameters of the beta distribution.
const SHAPE: f64 = 0.6;

/// The quantile `p` of Beta(0.6, 0.6).
fn quantile(p: f64) -> f64 {
    // The distribution is symmetric, and the series converges fastest in the lower half.
    if p > 0.5 {
        return 1.0 - quantile(1.0 - p);
    }
    let whole = 2.0 * weight_below(0.5);
    let (mut low, mut high) = (0.0, 0.5);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if weight_below(middle) < p * whole { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

/// The integral of t^(a − 1) (1 − t)^(a − 1) from 0 to `x`, up to 1/2, by its power series
/// (<https://dlmf.nist.gov/8.17.E7>).
fn weight_below(x: f64) -> f64 {
    let (mut term, mut sum) = (1.0, 0.0);
    for k in 0..60 {
        let k = f64::from(k);
        sum += term / (SHAPE + k);
        term *= (k + 1.0 - SHAPE) / (k + 1.0) * x;
    }
    sum * x.powf(SHAPE)
}
