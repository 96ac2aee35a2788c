"""Records results of the reference schedulers in tests/fixtures/schedulers.json.

    python make_schedulers.py SELF_FORCING

SELF_FORCING is a checkout of https://github.com/guandeh17/Self-Forcing; its `utils/scheduler.py` is run.
The velocity at step i for a sample x is sin(2 x + i), which both sides can compute.
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

UNIPC = dict(prediction_type="flow_prediction", use_flow_sigmas=True)
START = torch.linspace(-2, 2, 6).reshape(1, 1, 6)


def velocity(sample, index):
    return torch.sin(2 * sample + index)


def run(scheduler, steps):
    scheduler.set_timesteps(steps)
    sample, trace = START, []
    for index, timestep in enumerate(scheduler.timesteps):
        sample = scheduler.step(velocity(sample, index), timestep, sample, return_dict=False)[0]
        trace.append(sample.flatten().tolist())
    return scheduler.timesteps.tolist(), trace


def few_step(module, levels, shift):
    """The loop of pipeline/causal_inference.py; the noise before step i is cos(7 i + position)."""
    scheduler = module["FlowMatchScheduler"](shift=shift, sigma_min=0.0, extra_one_step=True)
    scheduler.set_timesteps(1000, training=True)
    grid = torch.cat((scheduler.timesteps, torch.tensor([0.0])))
    timesteps = grid[1000 - torch.tensor(levels)]
    sample, trace = START.reshape(1, 1, 1, 6), []
    for index, timestep in enumerate(timesteps):
        place = torch.argmin((scheduler.timesteps - timestep).abs())
        clean = (sample.double() - scheduler.sigmas[place].double() * velocity(sample, index).double()).float()
        if index + 1 < len(timesteps):
            noise = torch.cos(7.0 * (index + 1) + torch.arange(6.0)).reshape(sample.shape)
            sample = scheduler.add_noise(clean, noise, timesteps[index + 1].reshape(1))
        else:
            sample = clean
        trace.append(sample.flatten().tolist())
    return timesteps.tolist(), trace


def main():
    cases = []

    def add(config, steps, result):
        cases.append(dict(config=config, steps=steps, timesteps=result[0], trace=result[1]))

    for steps in (1, 2, 5, 20):
        for shift in (1.0, 3.0, 5.0):
            unipc = UniPCMultistepScheduler(**UNIPC, flow_shift=shift)
            add(dict(unipc.config), steps, run(unipc, steps))
            euler = FlowMatchEulerDiscreteScheduler(shift=shift)
            add(dict(euler.config), steps, run(euler, steps))
    for options in (
        dict(solver_order=1),
        dict(solver_order=3),
        dict(solver_type="bh1", final_sigmas_type="sigma_min"),
        dict(solver_order=3, solver_type="bh1", final_sigmas_type="sigma_min", disable_corrector=[0, 2]),
        dict(disable_corrector=[0, 1]),
        dict(num_train_timesteps=500),
        dict(final_sigmas_type="sigma_min"),
    ):
        unipc = UniPCMultistepScheduler(**UNIPC, flow_shift=3.0, **options)
        add(dict(unipc.config), 7, run(unipc, 7))
    euler = FlowMatchEulerDiscreteScheduler(shift=3.0, num_train_timesteps=500)
    add(dict(euler.config), 7, run(euler, 7))
    for spacing in ("karras", "exponential", "beta"):
        for steps in (1, 7):
            euler = FlowMatchEulerDiscreteScheduler(shift=3.0, **{f"use_{spacing}_sigmas": True})
            add(dict(euler.config), steps, run(euler, steps))

    module = {}
    exec((Path(sys.argv[1]) / "utils" / "scheduler.py").read_text(), module)
    for levels, shift in (([1000, 750, 500, 250], 5.0), ([1000, 500], 8.0), ([1000], 5.0)):
        config = dict(_class_name="FewStepScheduler", shift=shift, denoising_step_list=levels)
        add(config, len(levels), few_step(module, levels, shift))

    for case in cases:
        case["config"] = {k: v for k, v in case["config"].items() if k not in ("trained_betas", "_use_default_values")}
        case["config"].setdefault("_class_name", "UniPCMultistepScheduler" if "flow_shift" in case["config"]
                                  else "FlowMatchEulerDiscreteScheduler")
    path = Path(__file__).parent.parent / "fixtures" / "schedulers.json"
    path.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")
    print(len(cases), "cases,", path.stat().st_size, "bytes")

    _, trace = run(UniPCMultistepScheduler(**UNIPC, flow_shift=3.0, lower_order_final=False), 4)
    print("lower_order_final=False is not supported, since the reference ends in", trace[-1][:2])


if __name__ == "__main__":
    main()
