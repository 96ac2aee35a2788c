"""The autoencoder: the TAEHV architecture (https://github.com/madebyollin/taehv) with other widths.

Convolutions over single frames, and blocks that also take the previous frame, so that it can run as a stream.
8 times in space, 4 times in time; the first latent frame is the first frame alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 2
LATENT_CHANNELS = 24
ENCODER_WIDTH = 64
DECODER_WIDTHS = (128, 96, 48, 32)
# Residual blocks of each stage of the decoder: those of TAEHV, and as many as are trained now.
TAEHV_BLOCKS, DECODER_BLOCKS = (3, 3, 3), (1, 2, 1)
DOWNSCALE_TIME = (True, True, False)
UPSCALE_TIME = (False, True, True)
DOWNSCALE_SPACE = (True, True, False)
UPSCALE_SPACE = (False, True, True)
TIME_FACTOR = 4


def conv(n_in: int, n_out: int, **options) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, padding=1, **options)


class Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class MemBlock(nn.Module):
    """A residual block that also takes its input of the previous frame."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(conv(2 * n, n), nn.ReLU(), conv(n, n), nn.ReLU(), conv(n, n))

    def forward(self, x: Tensor, frames: int) -> Tensor:
        past = x.unflatten(0, (-1, frames))
        past = torch.cat([torch.zeros_like(past[:, :1]), past[:, :-1]], 1).flatten(0, 1)
        return F.relu(self.conv(torch.cat([x, past], 1)) + x)


class TPool(nn.Module):
    """Merges `stride` frames into one."""

    def __init__(self, n: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(n * stride, n, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.reshape(-1, self.stride * x.shape[1], *x.shape[2:]))


class TGrow(nn.Module):
    """Expands one frame to `stride` frames."""

    def __init__(self, n: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(n, n * stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).reshape(-1, x.shape[1], *x.shape[2:])


class Autoencoder(nn.Module):
    """Module order and names match TAEHV, so that checkpoints are interchangeable."""

    def __init__(self, blocks: tuple[int, ...] = DECODER_BLOCKS) -> None:
        super().__init__()
        n = ENCODER_WIDTH
        encoder: list[nn.Module] = [conv(3 * PATCH**2, n), nn.ReLU()]
        for pool, shrink in zip(DOWNSCALE_TIME, DOWNSCALE_SPACE):
            encoder += [TPool(n, 2 if pool else 1), conv(n, n, stride=2 if shrink else 1, bias=False)]
            encoder += [MemBlock(n), MemBlock(n), MemBlock(n)]
        self.encoder = nn.Sequential(*encoder, conv(n, LATENT_CHANNELS))

        widths = DECODER_WIDTHS
        decoder: list[nn.Module] = [Clamp(), conv(LATENT_CHANNELS, widths[0]), nn.ReLU()]
        stages = zip(blocks, widths, widths[1:], UPSCALE_TIME, UPSCALE_SPACE)
        for count, n, after, grow, enlarge in stages:
            decoder += [*(MemBlock(n) for _ in range(count)), nn.Upsample(scale_factor=2 if enlarge else 1)]
            decoder += [TGrow(n, 2 if grow else 1), conv(n, after, bias=False)]
        self.decoder = nn.Sequential(*decoder, nn.ReLU(), conv(widths[-1], 3 * PATCH**2))
        self.initialise()

    def initialise(self) -> None:
        """Initializes every stage near the identity; with torch's defaults training barely starts."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, MemBlock):
                    module.conv[4].weight.mul_(0.1)
                    module.conv[0].weight[:, module.conv[0].out_channels :].mul_(0.1)
                elif isinstance(module, TPool):
                    n = module.conv.out_channels
                    module.conv.weight.copy_(torch.eye(n).repeat(1, module.stride)[..., None, None] / module.stride)
                elif isinstance(module, TGrow):
                    n = module.conv.in_channels
                    module.conv.weight.copy_(torch.eye(n).repeat(module.stride, 1)[..., None, None])

    @staticmethod
    def run(model: nn.Sequential, x: Tensor) -> Tensor:
        """Runs `[N, T, C, H, W]` through all blocks, with all frames in parallel."""
        batch = x.shape[0]
        x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        for block in model:
            x = block(x, x.shape[0] // batch) if isinstance(block, MemBlock) else block(x)
        return x.unflatten(0, (batch, -1))

    def encode(self, video: Tensor) -> Tensor:
        """Encodes `[N, 1 + 4n, 3, H, W]` in [0, 1] to `[N, 1 + n, C, H / 8, W / 8]`."""
        video = torch.cat([video[:, :1].expand(-1, TIME_FACTOR - 1, -1, -1, -1), video], 1)
        return self.run(self.encoder, F.pixel_unshuffle(video, PATCH))

    def decode(self, latents: Tensor) -> Tensor:
        """Decodes `[N, 1 + n, C, h, w]` to `[N, 1 + 4n, 3, 8h, 8w]`, not clamped."""
        return F.pixel_shuffle(self.run(self.decoder, latents), PATCH)[:, TIME_FACTOR - 1 :]


def blocks_of(weights: dict[str, Tensor]) -> tuple[int, ...]:
    """Residual blocks of each stage of a decoder with these weights: those before each `TGrow`."""
    kinds = {int(name.split(".")[1]): name.split(".", 2)[2] for name in weights if name.startswith("decoder.") and ".conv." in name}
    found, count = [], 0
    for _, kind in sorted(kinds.items()):
        if kind == "conv.weight":  # of TGrow
            found.append(count)
            count = 0
        else:
            count += 1
    return tuple(found)


def with_fewer_blocks(weights: dict[str, Tensor], after: tuple[int, ...]) -> dict[str, Tensor]:
    """Weights of a decoder with the first residual blocks of each stage; the encoder, and so all latents, stay the same."""
    number, kept = 3, {0: 0, 1: 1, 2: 2}  # layer before to layer after
    for many, few in zip(blocks_of(weights), after):
        start = len(kept)
        for i in range(many + 3):  # blocks, Upsample, TGrow, convolution
            if i < few or i >= many:
                kept[number + i] = start + (i if i < few else i - many + few)
        number += many + 3
    kept |= {number: len(kept), number + 1: len(kept) + 1}
    found = {}
    for name, weight in weights.items():
        part, layer, *rest = name.split(".")
        if part == "decoder":
            if int(layer) not in kept:
                continue
            layer = str(kept[int(layer)])
        found[".".join((part, layer, *rest))] = weight
    return found


def config(blocks: tuple[int, ...]) -> dict:
    return CONFIG | {"decoder_blocks": list(blocks)}


CONFIG = {
    "_class_name": "AutoencoderTAEHV",
    "patch_size": PATCH,
    "latent_channels": LATENT_CHANNELS,
    "encoder_width": ENCODER_WIDTH,
    "decoder_widths": list(DECODER_WIDTHS),
    "temporal_downscale": list(DOWNSCALE_TIME),
    "temporal_upscale": list(UPSCALE_TIME),
    "spatial_downscale": list(DOWNSCALE_SPACE),
    "spatial_upscale": list(UPSCALE_SPACE),
}
