//! `scheduler/scheduler_config.json`.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::unipc::{Options, SolverType};
use super::{FewStep, FlowMatchEuler, Scheduler, Spacing, UniPc};
use crate::checkpoint::Source;
use crate::{Error, Result};

const PATH: &str = "scheduler/scheduler_config.json";
/// The models were trained with this many steps.
pub const MAX_STEPS: u32 = 1000;

/// A scheduler of diffusers with its settings; [`start`](Self::start) sets it up for a number of steps.
#[derive(Clone, Debug, PartialEq)]
pub enum SchedulerConfig {
    /// diffusers' `UniPCMultistepScheduler`.
    #[allow(missing_docs)]
    UniPc { shift: f64, train_timesteps: usize, options: Options },
    /// diffusers' `FlowMatchEulerDiscreteScheduler`.
    #[allow(missing_docs)]
    FlowMatchEuler { shift: f64, train_timesteps: usize, spacing: Option<Spacing> },
    /// Self-Forcing: noise levels out of 1000, before the shift, decreasing.
    #[allow(missing_docs)]
    FewStep { shift: f64, levels: Vec<usize> },
}

#[derive(Deserialize)]
#[serde(default)]
struct UniPcFile {
    num_train_timesteps: usize,
    solver_order: usize,
    prediction_type: String,
    predict_x0: bool,
    solver_type: String,
    lower_order_final: bool,
    disable_corrector: Vec<usize>,
    use_flow_sigmas: bool,
    use_karras_sigmas: bool,
    use_exponential_sigmas: bool,
    use_beta_sigmas: bool,
    flow_shift: f64,
    final_sigmas_type: String,
}

impl Default for UniPcFile {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            solver_order: 2,
            prediction_type: "epsilon".into(),
            predict_x0: true,
            solver_type: "bh2".into(),
            lower_order_final: true,
            disable_corrector: vec![],
            use_flow_sigmas: false,
            use_karras_sigmas: false,
            use_exponential_sigmas: false,
            use_beta_sigmas: false,
            flow_shift: 1.0,
            final_sigmas_type: "zero".into(),
        }
    }
}

#[derive(Deserialize)]
#[serde(default)]
struct EulerFile {
    num_train_timesteps: usize,
    shift: f64,
    use_karras_sigmas: bool,
    use_exponential_sigmas: bool,
    use_beta_sigmas: bool,
}

impl Default for EulerFile {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            shift: 1.0,
            use_karras_sigmas: false,
            use_exponential_sigmas: false,
            use_beta_sigmas: false,
        }
    }
}

#[derive(Deserialize)]
#[serde(default)]
struct FewStepFile {
    shift: f64,
    denoising_step_list: Vec<usize>,
}

impl Default for FewStepFile {
    fn default() -> Self {
        Self { shift: 5.0, denoising_step_list: vec![1000, 750, 500, 250] }
    }
}

/// Settings of diffusers' schedulers that must be off.
const MUST_BE_OFF: [&str; 6] = [
    "use_dynamic_shifting",
    "shift_terminal",
    "invert_sigmas",
    "stochastic_sampling",
    "thresholding",
    "solver_p",
];

impl SchedulerConfig {
    /// Reads `scheduler/scheduler_config.json`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is missing, [`Error::Invalid`] if a setting is not supported.
    pub fn read(source: &Source) -> Result<Self> {
        let file: Map<String, Value> = source.json(PATH)?;
        Self::parse(file).map_err(|reason| source.invalid(PATH, reason))
    }

    fn parse(file: Map<String, Value>) -> std::result::Result<Self, String> {
        let class = file.get("_class_name").and_then(Value::as_str).unwrap_or_default().to_owned();
        for name in MUST_BE_OFF {
            if !matches!(file.get(name), None | Some(Value::Null | Value::Bool(false))) {
                return Err(format!("{name} is set, which is not supported"));
            }
        }
        let file = Value::Object(file);
        let config = match class.as_str() {
            "UniPCMultistepScheduler" => unipc(parsed(file)?)?,
            "FlowMatchEulerDiscreteScheduler" => euler(parsed(file)?)?,
            "FewStepScheduler" => {
                let FewStepFile { shift, denoising_step_list } = parsed(file)?;
                Self::FewStep { shift, levels: denoising_step_list }
            }
            _ => {
                return Err(format!(
                    "a scheduler of class {class:?}; supported are UniPCMultistepScheduler, \
                     FlowMatchEulerDiscreteScheduler and FewStepScheduler"
                ));
            }
        };
        let shift = config.shift();
        if !(shift.is_finite() && shift > 0.0) {
            return Err(format!("a shift of {shift}; it must be above 0"));
        }
        match &config {
            Self::FewStep { levels, .. } => {
                let falling = levels.windows(2).all(|pair| pair[0] > pair[1]);
                let within = levels.iter().all(|level| (1..=1000).contains(level));
                if levels.is_empty() || !falling || !within {
                    return Err(format!(
                        "denoising_step_list is {levels:?}; it must be strictly decreasing, from at most 1000 to at least 1"
                    ));
                }
            }
            Self::UniPc { train_timesteps, .. } | Self::FlowMatchEuler { train_timesteps, .. } => {
                if !(1..=1_000_000).contains(train_timesteps) {
                    return Err(format!("num_train_timesteps is {train_timesteps}"));
                }
            }
        }
        Ok(config)
    }

    /// Shift of the schedule towards noise.
    pub fn shift(&self) -> f64 {
        match self {
            Self::UniPc { shift, .. } | Self::FlowMatchEuler { shift, .. } | Self::FewStep { shift, .. } => {
                *shift
            }
        }
    }

    /// The timestep of pure noise.
    pub fn train_timesteps(&self) -> usize {
        match self {
            Self::UniPc { train_timesteps, .. } | Self::FlowMatchEuler { train_timesteps, .. } => {
                *train_timesteps
            }
            Self::FewStep { .. } => 1000,
        }
    }

    /// The number of steps that the schedule was designed for, if it has one.
    pub fn steps(&self) -> Option<usize> {
        match self {
            Self::FewStep { levels, .. } => Some(levels.len()),
            _ => None,
        }
    }

    /// Sets up a scheduler for `steps`. `shift`, if any, replaces the configured shift.
    ///
    /// # Errors
    /// [`Error::Request`] for a number of steps or a shift out of range.
    pub fn start(&self, steps: u32, shift: Option<f64>) -> Result<Scheduler> {
        if !(1..=MAX_STEPS).contains(&steps) {
            return Err(Error::Request(
                crate::Setting::Steps,
                format!("{steps} steps; it must be from 1 to {MAX_STEPS}"),
            ));
        }
        let shift = shift.unwrap_or(self.shift());
        if !(shift.is_finite() && shift > 0.0) {
            return Err(Error::Request(
                crate::Setting::Shift,
                format!("a shift of {shift}; it must be above 0"),
            ));
        }
        let steps = steps as usize;
        Ok(match self {
            Self::UniPc { train_timesteps, options, .. } => {
                UniPc::new(steps, shift, *train_timesteps, options.clone()).into()
            }
            Self::FlowMatchEuler { train_timesteps, spacing, .. } => {
                FlowMatchEuler::new(steps, shift, *train_timesteps, *spacing).into()
            }
            Self::FewStep { levels, .. } if levels.len() == steps => FewStep::new(levels, shift).into(),
            Self::FewStep { .. } => FewStep::even(steps, shift).into(),
        })
    }
}

fn euler(file: EulerFile) -> std::result::Result<SchedulerConfig, String> {
    let spacings = [
        (file.use_karras_sigmas, Spacing::Karras),
        (file.use_exponential_sigmas, Spacing::Exponential),
        (file.use_beta_sigmas, Spacing::Beta),
    ];
    let mut chosen = spacings.into_iter().filter_map(|(on, spacing)| on.then_some(spacing));
    let spacing = chosen.next();
    if chosen.next().is_some() {
        return Err(
            "only one of use_karras_sigmas, use_exponential_sigmas and use_beta_sigmas can be set".into()
        );
    }
    Ok(SchedulerConfig::FlowMatchEuler {
        shift: file.shift,
        train_timesteps: file.num_train_timesteps,
        spacing,
    })
}

fn unipc(file: UniPcFile) -> std::result::Result<SchedulerConfig, String> {
    if file.use_karras_sigmas || file.use_exponential_sigmas || file.use_beta_sigmas {
        return Err(
            "use_karras_sigmas, use_exponential_sigmas or use_beta_sigmas is set, which is supported for \
                    FlowMatchEulerDiscreteScheduler only"
                .into(),
        );
    }
    if !file.use_flow_sigmas || file.prediction_type != "flow_prediction" || !file.predict_x0 {
        return Err(format!(
            "use_flow_sigmas is {}, prediction_type {:?}, predict_x0 {}; only flow models are supported \
             (true, \"flow_prediction\", true)",
            file.use_flow_sigmas, file.prediction_type, file.predict_x0
        ));
    }
    let final_zero = match file.final_sigmas_type.as_str() {
        "zero" => true,
        "sigma_min" => false,
        other => return Err(format!("final_sigmas_type is {other:?}; known are \"zero\" and \"sigma_min\"")),
    };
    if !(1..=5).contains(&file.solver_order) {
        return Err(format!("solver_order is {}, not from 1 to 5", file.solver_order));
    }
    if !file.lower_order_final && file.solver_order > 1 {
        return Err("lower_order_final is false: the last step would divide by zero".into());
    }
    let solver_type = match file.solver_type.as_str() {
        "bh1" => SolverType::Bh1,
        // The reference treats the other three as bh2.
        "bh2" | "midpoint" | "heun" | "logrho" => SolverType::Bh2,
        other => return Err(format!("solver_type is {other:?}; supported are \"bh1\" and \"bh2\"")),
    };
    Ok(SchedulerConfig::UniPc {
        shift: file.flow_shift,
        train_timesteps: file.num_train_timesteps,
        options: Options {
            order: file.solver_order,
            solver_type,
            lower_order_final: file.lower_order_final,
            disable_corrector: file.disable_corrector,
            final_zero,
        },
    })
}

fn parsed<T: serde::de::DeserializeOwned>(file: Value) -> std::result::Result<T, String> {
    serde_json::from_value(file).map_err(|e| format!("cannot be parsed: {e}"))
}
