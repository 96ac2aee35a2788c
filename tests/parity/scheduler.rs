//! Schedules and steps against diffusers' and Self-Forcing's (`make_schedulers.py`).

use candle_core::{Device, Tensor};
use soragen::checkpoint::Source;
use soragen::scheduler::SchedulerConfig;
use soragen::transformer::WanTransformer;
use soragen::{Cancel, Precision};
use soragen_tests::fixtures::{PIPELINES, Pipeline, assert_close, json, values};

fn read(config: &serde_json::Value) -> soragen::Result<SchedulerConfig> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("scheduler")).unwrap();
    std::fs::write(folder.path().join("scheduler/scheduler_config.json"), config.to_string()).unwrap();
    SchedulerConfig::read(&Source::Folder(folder.path().into()))
}

fn numbers(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

#[test]
fn schedules_and_steps_equal_the_reference() {
    for case in json("schedulers.json").as_array().unwrap() {
        let config = &case["config"];
        let steps = case["steps"].as_u64().unwrap() as u32;
        let what = format!("{steps} steps of {config}");
        let mut scheduler = read(config).unwrap().start(steps, None).unwrap();

        let timesteps = numbers(&case["timesteps"]);
        assert_eq!(scheduler.timesteps().len(), timesteps.len(), "{what}");
        for (actual, expected) in scheduler.timesteps().iter().zip(&timesteps) {
            // One unit in the last place of an f32 near 1000; UniPC's are whole numbers.
            assert!((actual - expected).abs() <= 6.2e-5, "{what}: timestep {actual}, not {expected}");
        }

        let mut sample = Tensor::new(&[-2f32, -1.2, -0.4, 0.4, 1.2, 2.0], &Device::Cpu).unwrap();
        for (index, expected) in case["trace"].as_array().unwrap().iter().enumerate() {
            let velocity = ((&sample * 2.0).unwrap() + index as f64).unwrap().sin().unwrap();
            let noise = || {
                let places = (0..6).map(|place| (7.0 * (index + 1) as f32 + place as f32).cos());
                Ok(Tensor::from_iter(places, &Device::Cpu)?)
            };
            sample = scheduler.step(index, &velocity, &sample, noise).unwrap();
            for (actual, expected) in values(&sample).into_iter().zip(numbers(expected)) {
                let off = (f64::from(actual) - expected).abs();
                assert!(off <= 2e-5, "{what}: step {index} is {actual}, not {expected}");
            }
        }
    }
}

/// Transformer and scheduler together: what diffusers' pipelines do between text encoder and autoencoder.
#[test]
fn a_pipeline_is_sampled_as_in_diffusers() {
    for name in PIPELINES {
        let Pipeline { source, expected, request } = Pipeline::open(name);
        let transformer =
            WanTransformer::open(&source, "transformer", Precision::F32, false, &Device::Cpu, &Cancel::new())
                .unwrap();
        let context =
            |name| expected.get(name).map(|embeds| transformer.context(embeds, &Cancel::new()).unwrap());
        let (prompt, negative) = (context("prompt_embeds").unwrap(), context("negative_prompt_embeds"));
        let guidance = request["guidance"].as_f64().unwrap();
        let steps = request["steps"].as_u64().unwrap() as u32;
        let cancel = Cancel::new();

        let mut scheduler = SchedulerConfig::read(&source).unwrap().start(steps, None).unwrap();
        let mut latents = expected["latents"].clone();
        for (index, timestep) in scheduler.timesteps().to_vec().into_iter().enumerate() {
            let (mut input, mut timesteps) = (latents.clone(), vec![timestep]);
            if let Some(image) = expected.get("image_latents") {
                // The first frame is given, and clean.
                let frames = latents.dim(2).unwrap();
                input = Tensor::cat(&[image, &latents.narrow(2, 1, frames - 1).unwrap()], 2).unwrap();
                timesteps = [0.0].into_iter().chain(std::iter::repeat_n(timestep, frames - 1)).collect();
            }
            let velocity = |context| transformer.forward(&input, &timesteps, context, &cancel).unwrap();
            let mut towards = velocity(&prompt);
            if let Some(negative) = &negative {
                let away = velocity(negative);
                towards = (&away + ((&towards - &away).unwrap() * guidance).unwrap()).unwrap();
            }
            latents =
                scheduler.step(index, &towards, &latents, || unreachable!("no noise is drawn")).unwrap();
            let expected = expected["trace"].get(index).unwrap();
            assert_close(&format!("{name}: step {index}"), &latents, &expected, 5e-5);
        }
    }
}

#[test]
fn another_shift_and_other_steps_can_be_asked_for() {
    let cases = json("schedulers.json");
    let find = |shift: f64, steps: u64| {
        let mut cases = cases.as_array().unwrap().iter();
        cases.find(|case| case["config"]["flow_shift"] == shift && case["steps"] == steps).unwrap()
    };
    let scheduler = read(&find(3.0, 20)["config"]).unwrap().start(5, Some(5.0)).unwrap();
    assert_eq!(scheduler.timesteps(), numbers(&find(5.0, 5)["timesteps"]));

    // The levels of a distilled model, trained for four steps, spread over others.
    let config = serde_json::json!({ "_class_name": "FewStepScheduler", "shift": 1.0 });
    let few = |steps| read(&config).unwrap().start(steps, None).unwrap().timesteps().to_vec();
    assert_eq!(few(4), [1000.0, 750.0, 500.0, 250.0]);
    assert_eq!(few(2), [1000.0, 500.0]);
    assert_eq!(few(1), [1000.0]);
}

#[test]
fn what_cannot_be_sampled_is_refused_by_name() {
    let unipc = |name: &str, value: serde_json::Value| {
        let mut config = serde_json::json!({
            "_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": true, "prediction_type": "flow_prediction",
        });
        config[name] = value;
        config
    };
    let refusals = [
        (unipc("_class_name", "DDIMScheduler".into()), "DDIMScheduler"),
        (unipc("use_flow_sigmas", false.into()), "use_flow_sigmas"),
        (unipc("prediction_type", "epsilon".into()), "epsilon"),
        (unipc("use_dynamic_shifting", true.into()), "use_dynamic_shifting"),
        (unipc("use_karras_sigmas", true.into()), "use_karras_sigmas"),
        (unipc("shift_terminal", 0.1.into()), "shift_terminal"),
        (unipc("thresholding", true.into()), "thresholding"),
        (unipc("lower_order_final", false.into()), "lower_order_final"),
        (unipc("final_sigmas_type", "other".into()), "final_sigmas_type"),
        (unipc("solver_order", 0.into()), "solver_order"),
        (unipc("solver_type", "other".into()), "solver_type"),
        (unipc("flow_shift", 0.into()), "shift"),
        (unipc("num_train_timesteps", 0.into()), "num_train_timesteps"),
        (
            serde_json::json!({
                "_class_name": "FlowMatchEulerDiscreteScheduler", "use_beta_sigmas": true, "use_karras_sigmas": true,
            }),
            "only one",
        ),
        (serde_json::json!({}), "class"),
        (
            serde_json::json!({ "_class_name": "FewStepScheduler", "denoising_step_list": [] }),
            "denoising_step_list",
        ),
        (
            serde_json::json!({ "_class_name": "FewStepScheduler", "denoising_step_list": [9, 0] }),
            "denoising_step_list",
        ),
    ];
    for (config, word) in refusals {
        let error = read(&config).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("scheduler_config.json"), "{error}");
    }
    let config = read(&unipc("solver_order", 2.into())).unwrap();
    for (steps, shift) in [(0, None), (1001, None), (4, Some(0.0)), (4, Some(f64::NAN))] {
        assert!(matches!(config.start(steps, shift), Err(soragen::Error::Request(..))), "{steps} {shift:?}");
    }
}

#[test]
fn a_scheduler_is_of_the_class_that_is_named() {
    let class = |name: &str| {
        let config = serde_json::json!({
            "_class_name": name, "use_flow_sigmas": true, "prediction_type": "flow_prediction",
        });
        read(&config).unwrap().start(2, None).unwrap()
    };
    for name in ["UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler", "FewStepScheduler"] {
        assert_eq!(class(name).class_name(), name);
    }
}
