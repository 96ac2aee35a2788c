"""Which place does a frame show? A small network that learns from drawn frames with random subjects.

    python classifier.py --state DIR --seconds 600

Writes `STATE/classifier.safetensors`; `evaluate.py` reads it there, else the one beside this file. It knows only the places of
`scenes.py`, so it cannot see that a frame shows none of them. Frames are shrunk to a third: it does not see blur.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import pictures
from clips import Clip
from latents import SHARES
from options import parser, seconds_at_work, threads
from scenes import PLACES, Scene

SIZE = (64, 107)  # height, width of the input
SCENES, OF_SCENE = 600, 8  # drawn scenes, and frames of each
FILE = "classifier.safetensors"
NAMES = tuple(place.__name__ for place in PLACES)


class Classifier(nn.Sequential):
    """`[N, 3, *SIZE]` in [0, 1] to scores `[N, places]`."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for before, after in ((3, 24), (24, 48), (48, 96), (96, 128)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Dropout(0.3), nn.Linear(6 * 128, len(NAMES)))


def small(frames: np.ndarray) -> Tensor:
    """f32 `[N, 3, *SIZE]` in [0, 1] of frames `[N, H, W, 3]`, u8 or f32 in [0, 1]."""
    shrunk = np.stack([cv2.resize(frame, SIZE[::-1], interpolation=cv2.INTER_AREA) for frame in frames])
    return torch.from_numpy(shrunk).permute(0, 3, 1, 2).float() / (255 if shrunk.dtype == np.uint8 else 1)


def drawn(seed: int, scenes: int) -> tuple[Tensor, Tensor]:
    """Frames of scenes, each with other subjects, and the numbers of their places."""
    rng, pool, frames, places = np.random.default_rng([61, seed]), pictures.trained(), [], []
    for i in range(scenes):
        scene = Scene.draw(rng, i)
        frames += [Clip(rng, scene, pool, SHARES).frames(1)[0] for _ in range(OF_SCENE)]
        places += [NAMES.index(scene.place.name)] * OF_SCENE
    return small(np.stack(frames)), torch.tensor(places)


def varied(frames: Tensor) -> Tensor:
    """Other colours, and noise and blur as generated frames may have."""
    size = len(frames)
    frames = torch.where(torch.rand(size, 1, 1, 1) < 0.5, F.avg_pool2d(frames, 3, 1, 1), frames)
    frames = torch.where(torch.rand(size, 1, 1, 1) < 0.5, frames.flip(3), frames)
    gain, offset = 1 + 0.15 * torch.randn(size, 3, 1, 1), 0.05 * torch.randn(size, 3, 1, 1)
    return gain * frames + offset + 0.04 * torch.rand(size, 1, 1, 1) * torch.randn_like(frames)


@lru_cache(maxsize=1)
def trained(state: Path) -> Classifier:
    model, files = Classifier().eval(), (state / FILE, Path(__file__).parent / FILE)
    model.load_state_dict({name: weight.float() for name, weight in load_file(next(f for f in files if f.exists())).items()})
    return model


@torch.no_grad()
def places_of(frames: np.ndarray, state: Path) -> list[str]:
    """Names of the places of frames `[N, H, W, 3]`."""
    return [NAMES[i] for i in trained(state)(small(frames)).argmax(1).tolist()]


def main() -> None:
    args = parser(__doc__, seconds=600)
    args = args.parse_args()
    threads(args)
    torch.manual_seed(args.seed)
    frames, places = drawn(0, SCENES)
    unseen, wanted = drawn(1, SCENES // 6)
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.02)
    begin = seconds_at_work()
    while (part := (seconds_at_work() - begin) / args.seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - part)
        rows = torch.randint(len(frames), (64,))
        loss = F.cross_entropy(model(varied(frames[rows])), places[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        right = (model(unseen).argmax(1) == wanted).float().mean()
    print(f"loss {loss.item():.3f}, right on unseen drawn frames: {right:.4f}")
    args.state.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.half() if weight.is_floating_point() else weight for name, weight in model.state_dict().items()}, args.state / FILE)


if __name__ == "__main__":
    main()
