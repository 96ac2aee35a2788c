//! UniPC (<https://arxiv.org/abs/2302.04867>) on flow sigmas: diffusers' `UniPCMultistepScheduler`.
//!
//! A predictor extrapolates the last estimates of the clean latents; a corrector repeats the last step once the estimate at
//! its end is known. The time variable is half the log of the signal to noise ratio, λ = ln(1 − σ) − ln σ.

use std::collections::VecDeque;

use candle_core::{DType, Tensor};
use serde::Deserialize;

use super::{linspace, rounded, shifted};
use crate::Result;

/// B(h) of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SolverType {
    /// h
    Bh1,
    /// e^h − 1
    Bh2,
}

/// What is set in `scheduler_config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Number of estimates that a step uses, from 1 up.
    pub order: usize,
    /// See [`SolverType`].
    pub solver_type: SolverType,
    /// Whether the last steps use fewer.
    pub lower_order_final: bool,
    /// Steps that the corrector skips.
    pub disable_corrector: Vec<usize>,
    /// Whether the last step goes to σ = 0, or stays at its sigma.
    pub final_zero: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            order: 2,
            solver_type: SolverType::Bh2,
            lower_order_final: true,
            disable_corrector: vec![],
            final_zero: true,
        }
    }
}

/// Predictor and corrector with their history.
#[derive(Clone, Debug)]
pub struct UniPc {
    options: Options,
    timesteps: Vec<f64>,
    /// One more than steps.
    sigmas: Vec<f64>,
    /// The last estimates of the clean latents, the latest first, at most `order`.
    estimates: VecDeque<Tensor>,
    /// The latents before the last step, and its order.
    last: Option<(Tensor, usize)>,
}

impl UniPc {
    /// `steps` from 1 up.
    pub fn new(steps: usize, shift: f64, train_timesteps: usize, options: Options) -> Self {
        let train = train_timesteps as f64;
        let mut sigmas = linspace(1.0, 1.0 / train, steps + 1);
        sigmas.pop();
        for sigma in &mut sigmas {
            *sigma = shifted(*sigma, shift);
        }
        Self::at(sigmas, train, options)
    }

    /// At these noise levels, one for each step, from at most 1 downwards to above 0. The transformer receives whole
    /// timesteps; timestep `train` is σ = 1.
    pub fn at(mut sigmas: Vec<f64>, train: f64, options: Options) -> Self {
        // λ is infinite where σ is 1.
        const EPSILON: f64 = 1e-6;
        if let Some(first) = sigmas.first_mut().filter(|first| (**first - 1.0).abs() < EPSILON) {
            *first -= EPSILON;
        }
        let timesteps = sigmas.iter().map(|sigma| (sigma * train).trunc()).collect();
        let mut sigmas: Vec<f64> = sigmas.into_iter().map(rounded).collect();
        let last = sigmas.last().copied().unwrap_or_default();
        sigmas.push(if options.final_zero { 0.0 } else { last });
        Self { options, timesteps, sigmas, estimates: VecDeque::new(), last: None }
    }

    /// The timestep that the transformer receives at each step.
    pub fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    pub(super) fn sigma(&self, index: usize) -> f64 {
        self.sigmas[index]
    }

    /// See [`Scheduler::step`](super::Scheduler::step); `clean` are the estimated clean latents, f32.
    pub(super) fn step(&mut self, index: usize, clean: Tensor, sample: &Tensor) -> Result<Tensor> {
        let sample = sample.to_dtype(DType::F32)?;
        let sample = match &self.last {
            Some((begin, order)) if index > 0 && !self.options.disable_corrector.contains(&(index - 1)) => {
                self.update(index - 1, *order, begin, Some(&clean))?
            }
            _ => sample,
        };

        self.estimates.push_front(clean);
        self.estimates.truncate(self.options.order);
        let steps = self.timesteps.len();
        let order = if self.options.lower_order_final { steps - index } else { self.options.order };
        let order = order.min(self.estimates.len());
        let next = self.update(index, order, &sample, None)?;
        self.last = Some((sample, order));
        Ok(next)
    }

    /// Goes from `begin` at step `from` to the next sigma. The latest estimate is the one computed at `from`; the corrector also
    /// knows the estimate at the `end`.
    fn update(&self, from: usize, order: usize, begin: &Tensor, end: Option<&Tensor>) -> Result<Tensor> {
        let (sigma, sigma_next) = (self.sigmas[from], self.sigmas[from + 1]);
        let lambda = |sigma: f64| (1.0 - sigma).ln() - sigma.ln();
        let h = lambda(sigma_next) - lambda(sigma);
        let phi = (-h).exp_m1();
        let b = match self.options.solver_type {
            SolverType::Bh1 => -h,
            SolverType::Bh2 => phi,
        };
        let alpha = 1.0 - sigma_next;
        let latest = &self.estimates[0];

        // The positions of the estimates before the latest one, in units of the step.
        let places: Vec<f64> =
            (1..order).map(|i| (lambda(self.sigmas[from - i]) - lambda(sigma)) / h).collect();
        let weights = weights(&places, h, phi, b, end.is_some());

        let mut next = ((begin * (sigma_next / sigma))? - (latest * (alpha * phi))?)?;
        for ((estimate, place), weight) in self.estimates.iter().skip(1).zip(&places).zip(&weights) {
            next = (next - ((estimate - latest)? * (alpha * b * weight / place))?)?;
        }
        if let (Some(end), Some(weight)) = (end, weights.get(places.len())) {
            next = (next - ((end - latest)? * (alpha * b * weight))?)?;
        }
        Ok(next)
    }
}

/// The weight of each difference of estimates: ρ of the paper. The corrector has one more, for the estimate at the end of the
/// step, at position 1.
fn weights(places: &[f64], h: f64, phi: f64, b: f64, corrector: bool) -> Vec<f64> {
    let order = places.len() + 1;
    match (order, corrector) {
        (1, false) => return vec![],
        // The paper uses these values, which are close to the solution of the equations.
        (1, true) | (2, false) => return vec![0.5],
        _ => {}
    }
    let unknowns = if corrector { order } else { order - 1 };
    let nodes: Vec<f64> = places.iter().copied().chain([1.0]).take(unknowns).collect();
    let mut rows = Vec::with_capacity(unknowns);
    let mut phi_k = phi / -h - 1.0;
    let mut factorial = 1.0;
    for power in 0..unknowns {
        let mut row: Vec<f64> = nodes.iter().map(|node| node.powi(power as i32)).collect();
        row.push(phi_k * factorial / b);
        rows.push(row);
        factorial *= (power + 2) as f64;
        phi_k = phi_k / -h - 1.0 / factorial;
    }
    solve(rows)
}

/// Solves a small system of linear equations, each the coefficients and then the right-hand side.
fn solve(mut rows: Vec<Vec<f64>>) -> Vec<f64> {
    let n = rows.len();
    for column in 0..n {
        let largest = |row: &usize| rows[*row][column].abs();
        let pivot = (column..n).max_by(|a, b| largest(a).total_cmp(&largest(b))).unwrap_or(column);
        rows.swap(column, pivot);
        let chosen = rows[column].clone();
        for (i, row) in rows.iter_mut().enumerate().filter(|(i, _)| *i != column) {
            let factor = row[column] / chosen[column];
            debug_assert!(factor.is_finite(), "row {i} of a singular system");
            row.iter_mut().zip(&chosen).for_each(|(x, y)| *x -= factor * y);
        }
    }
    rows.iter().enumerate().map(|(i, row)| row[n] / row[i]).collect()
}
