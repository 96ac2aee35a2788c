"""Records what the training code draws with the weights of the built-in model, in tests/fixtures/builtin.safetensors.

The noise is zero, so the frames depend on the prompt, the reference, and its path only. One drawing stands, one comes into the frame, and one rises,
turns round and falls. Each frame is recorded at an eighth of its size, for the last frame of each latent frame.

    python make_builtin.py
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "models" / "train"))
import compare  # noqa: E402
import sample  # noqa: E402
import transformer  # noqa: E402


def main() -> None:
    noise = torch.zeros(1, compare.LATENTS, transformer.CHANNELS, sample.HEIGHT, sample.WIDTH)
    frames = {}
    for prompt, drawing, path in compare.CASES:
        made = compare.in_torch(prompt, drawing, path, noise)[::4].permute(0, 3, 1, 2)
        small = torch.nn.functional.avg_pool2d(made, 8).permute(0, 2, 3, 1)
        name = f"{drawing} | {prompt} | {compare.motion_path(path)}"
        frames[name] = small.half().contiguous()
    save_file(frames, ROOT / "tests" / "fixtures" / "builtin.safetensors")


if __name__ == "__main__":
    main()
