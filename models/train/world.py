"""Scenes on one device, and batched drawing of clips there."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clips import Clip
from fused import fused
from scenes import HEIGHT, LAYERS, PERIOD, WIDTH, Scene, draw_one
from sprites import SUBJECTS, load

# Frames per batch on a GPU and on a CPU: intermediate values take about 8 MB per frame.
AT_ONCE, FEW = 1152, 32


class World:
    """The content of clips: `scenes`, their strips RGBA u8 `[N, LAYERS, HEIGHT, PERIOD, 4]`, and the sprites."""

    def __init__(self, scenes: list[Scene], strips: Tensor) -> None:
        self.scenes, self.device = scenes, strips.device
        # One value per pixel, for a single gather.
        self.strips = strips.view(torch.int32).flatten()
        motion = np.zeros((len(scenes), LAYERS, 4), np.float32)
        for row, scene in zip(motion, scenes):
            row[: len(scene.layers)] = [(layer.depth, layer.drift, layer.sway, layer.fall) for layer in scene.layers]
        self.motion = torch.tensor(motion, device=self.device)
        sprites = torch.tensor(np.stack([load()[subject.icon] for subject in SUBJECTS]), device=self.device)
        whole = sprites.permute(0, 3, 1, 2).float() / 255
        # A mipmap, so that small sprites do not flicker.
        self.sprites = [whole, F.avg_pool2d(whole, 2), F.avg_pool2d(whole, 4)]

    @classmethod
    def draw(cls, count: int, seed: int, device: torch.device, processes: int = 1) -> World:
        shape = (count, LAYERS, HEIGHT, PERIOD, 4)
        size, memory = int(np.prod(shape)), Path("/dev/shm")
        roomy = memory.is_dir() and shutil.disk_usage(memory).free > size
        with tempfile.NamedTemporaryFile(dir=memory if roomy else None) as file:
            file.truncate(size)
            jobs = [(file.name, shape, seed, i) for i in range(count)]
            if processes == 1:
                scenes = [draw_one(job) for job in jobs]
            else:
                with get_context("fork").Pool(processes) as pool:
                    scenes = pool.map(draw_one, jobs, chunksize=8)
            strips = torch.from_numpy(np.memmap(file.name, np.uint8, "r+", shape=shape))
            return cls(scenes, strips.to(device, copy=True))

    def clip(self, rng: np.random.Generator, index: int | None = None, **options) -> Clip:
        index = int(rng.integers(len(self.scenes))) if index is None else index
        return Clip(rng, self.scenes[index], index, **options)

    @torch.no_grad()
    def frames(self, clips: list[Clip], times: np.ndarray) -> Tensor:
        """Draws RGB f32 `[N, T, 3, H, W]` in [0, 1] of `clips` at `times` `[N, T]` seconds."""
        count, length = times.shape
        numbers = [clip.numbers(t) for clip, t in zip(clips, times)]
        view = self.tensor(np.concatenate([n.view for n in numbers]))
        actors = np.concatenate([n.actors for n in numbers], 1).astype(np.float32)
        scene = torch.tensor([clip.index for clip in clips], device=self.device).repeat_interleave(length)
        time, at_once = self.tensor(times.flatten()), AT_ONCE if self.device.type == "cuda" else FEW
        spans = [slice(i, i + at_once) for i in range(0, count * length, at_once)]
        parts = [self.paint(scene[s], time[s], view[s], actors[:, s]) for s in spans]
        return torch.cat(parts).unflatten(0, (count, length))

    def tensor(self, numbers) -> Tensor:
        return torch.tensor(np.asarray(numbers, np.float32), device=self.device)

    def paint(self, scene: Tensor, time: Tensor, view: Tensor, actors: np.ndarray) -> Tensor:
        """`view` `[F, 2]` is position and zoom of the camera; `actors` `[A, F, ...]` are the values of `clips.ACTOR`."""
        camera, zoom = view.T
        # World coordinates of each row and column of the frame, in pixels.
        y, x = torch.arange(HEIGHT, device=self.device), torch.arange(WIDTH, device=self.device)
        y = HEIGHT * 0.6 + (y + 0.5 - HEIGHT * 0.6) / zoom[:, None] - 0.5
        x = WIDTH * 0.5 + (x + 0.5 - WIDTH * 0.5) / zoom[:, None] - 0.5
        picture = torch.zeros(len(scene), 3, HEIGHT, WIDTH, device=self.device)
        for i in range(LAYERS):
            depth, drift, sway, fall = self.motion[scene, i].T
            down = sway * torch.sin(1.7 * time + i) + fall * time
            scroll = depth * camera + drift * time
            picture = cover(
                picture, self.strips, scene * LAYERS + i, y - down[:, None], x + scroll[:, None], (fall != 0)[:, None]
            )
        for actor in actors:
            there = actor[:, 0] >= 0
            if there.any():
                picture = self.act(picture, actor, there, y, x, zoom)
        return picture

    def act(self, picture: Tensor, numbers: np.ndarray, there: np.ndarray, y: Tensor, x: Tensor, zoom: Tensor) -> Tensor:
        """Draws a subject and its shadow over `picture`, in the frames where it is `there`."""
        actor = self.tensor(numbers)
        dx, dy = x[:, None] - actor[:, 1, None, None], y[:, :, None] - actor[:, 2, None, None]
        width, low = actor[:, 6, None, None], y[:, :, None] - actor[:, 7, None, None]
        far = ((dx / width.clamp_min(1)) ** 2 + (low / (width * 0.175).clamp_min(1)) ** 2).sqrt()
        shade = ((1 - far) * width * 0.175 * zoom[:, None, None] + 0.5).clamp(0, 1) * (width > 0)
        picture = picture * (1 - 0.25 * shade[:, None])
        # The sprites look to the left.
        turn, half, facing = torch.deg2rad(actor[:, 3])[:, None, None], actor[:, 4, None, None] / 2, actor[:, 5, None, None]
        cos, sin = turn.cos(), turn.sin()
        grid = torch.stack([-(cos * dx - sin * dy) * facing / half, (sin * dx + cos * dy) / half], -1)
        sprite = torch.zeros(len(picture), 4, *picture.shape[2:], device=self.device)
        level = np.digitize(numbers[:, 4], (49, 98))
        for i, drawings in enumerate(reversed(self.sprites)):
            mine = (there & (level == i)).nonzero()[0]
            if len(mine):
                kind, mine = (torch.tensor(n, device=self.device) for n in (numbers[mine, 0].astype(np.int64), mine))
                sprite[mine] = F.grid_sample(drawings[kind], grid[mine], align_corners=False)
        return picture * (1 - sprite[:, 3:]) + sprite[:, :3]


@partial(fused, dynamic=None)
def cover(picture: Tensor, strips: Tensor, strip: Tensor, y: Tensor, x: Tensor, round_and_round: Tensor) -> Tensor:
    """Draws a layer with these strips over `picture` `[F, 3, H, W]`; `y` `[F, H]` and `x` `[F, W]` are positions in the layer."""
    y = torch.where(round_and_round, y % HEIGHT, y.clamp(0, HEIGHT - 1))
    top, left = y.floor(), x.floor()
    below = torch.where(round_and_round, (top + 1) % HEIGHT, (top + 1).clamp_max(HEIGHT - 1))
    dy, dx = (y - top)[:, :, None], (x - left)[:, None]
    columns = (left.long() % PERIOD, (left.long() + 1) % PERIOD)
    red = green = blue = alpha = torch.zeros_like(dy * dx)
    for row, wy in ((top, 1 - dy), (below, dy)):
        start = ((strip * HEIGHT)[:, None] + row.long()) * PERIOD
        for column, wx in zip(columns, (1 - dx, dx)):
            pixels, weight = strips[start[:, :, None] + column[:, None]], wy * wx / 255
            red = red + (pixels & 255) * weight
            green = green + (pixels >> 8 & 255) * weight
            blue = blue + (pixels >> 16 & 255) * weight
            alpha = alpha + (pixels >> 24 & 255) * weight
    return picture * (1 - alpha)[:, None] + torch.stack([red, green, blue], 1)
