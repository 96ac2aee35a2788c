"""Changes a small video with diffusers' `WanVideoToVideoPipeline` and the weights of tests/fixtures/pipelines.

    python make_video_to_video.py
"""

import json
from pathlib import Path

import diffusers.pipelines.wan.pipeline_wan_video2video as module
import numpy as np
import torch
from diffusers import WanVideoToVideoPipeline
from PIL import Image
from safetensors.torch import save_file

FIXTURES = Path(__file__).parent.parent / "fixtures"
STRENGTHS = (0.5, 0.8, 1.0)


def video(frames, width, height):
    """A gradient with an edge that moves, u8 `[T, H, W, 3]`."""
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width])[:, None, None]
    made = np.stack([np.stack([x, y, 0.5 + 0.5 * np.sin(9 * x * y + t)], -1) for t in range(frames)])
    for t in range(frames):
        made[t, height // 4 : height // 2, 2 * t : 2 * t + width // 4] = [0.9, 0.2, 0.1]
    return (made * 255).round().astype(np.uint8)


@torch.no_grad()
def make(name):
    folder = FIXTURES / "pipelines" / name
    request = json.loads((folder / "request.json").read_text())
    pipeline = WanVideoToVideoPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    frames = video(request["frames"], request["width"], request["height"])
    found = {f"{name}.video": torch.from_numpy(frames)}
    for strength in STRENGTHS:
        # The noise that the engine gets as well.
        noise = []

        def drawn(shape, **_):
            noise.append(torch.randn(shape, generator=torch.Generator().manual_seed(7)))
            return noise[-1]

        module.randn_tensor = drawn
        made = pipeline(
            video=[Image.fromarray(frame) for frame in frames], prompt=request["prompt"], negative_prompt=request.get("negative"),
            height=request["height"], width=request["width"], num_inference_steps=request["steps"], guidance_scale=request["guidance"],
            strength=strength, output_type="np", max_sequence_length=512,
        ).frames[0]
        found[f"{name}.noise"] = noise[-1]
        found[f"{name}.{strength}"] = torch.from_numpy(made).float()
        print(name, strength, made.shape, float(made.std()))
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    tensors = make("t2v-unipc") | make("t2v-euler")
    save_file({key: value.contiguous() for key, value in tensors.items()}, FIXTURES / "video_to_video.safetensors")
