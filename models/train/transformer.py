"""The transformer: the blocks and names of diffusers' `WanTransformer3DModel`, small, and causal over time.

It predicts clean latents, not the velocity: a token has 192 values, nearly the width of the transformer, which is too
many to carry noise through the network (https://arxiv.org/abs/2511.13720).

A latent frame attends to itself, to the `WINDOW` clean frames before it and to the first frame. In training the clean
and the noisy frames are in one sequence. In sampling the clean frames are in a cache with unrotated keys, so that
positions count from the start of the window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fused import fused

HEADS, HEAD_DIM, LAYERS = 4, 64, 8
DIM, FFN_DIM, FREQ_DIM, TEXT_DIM = HEADS * HEAD_DIM, 1024, 256, 384
CHANNELS, PATCH = 24, (2, 4)  # rows and columns of latents
WINDOW = 5  # past latent frames in the attention window
SINK = 1  # the first latent frame, always in the attention window
MAX_TOKENS = 64  # of a prompt; padding tokens are zero, but attended to

CONFIG = {
    "_class_name": "WanTransformer3DModel",
    "attention_head_dim": HEAD_DIM,
    "cross_attn_norm": True,
    "eps": 1e-6,
    "ffn_dim": FFN_DIM,
    "freq_dim": FREQ_DIM,
    "in_channels": CHANNELS,
    "num_attention_heads": HEADS,
    "num_layers": LAYERS,
    "out_channels": CHANNELS,
    "patch_size": [1, *PATCH],
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 1024,
    "text_dim": TEXT_DIM,
}


@lru_cache(maxsize=None)
def rotary(frames: tuple[int, ...], height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin `[len(frames) * height * width, HEAD_DIM / 2]` for latent frames at these times."""
    side = 2 * (HEAD_DIM // 6)
    dims = (HEAD_DIM - 2 * side, side, side)

    def angles(positions: Tensor, dim: int) -> Tensor:
        frequencies = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        return positions.double()[:, None] * frequencies

    t, y, x = (angles(p, d) for p, d in zip((torch.tensor(frames), torch.arange(height), torch.arange(width)), dims))
    shape = (len(frames), height, width, -1)
    grid = torch.cat([t[:, None, None].expand(shape), y[None, :, None].expand(shape), x[None, None].expand(shape)], -1)
    grid = grid.flatten(0, 2)
    return grid.cos().float().to(device), grid.sin().float().to(device)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates `[B, heads, L, HEAD_DIM]` in adjacent pairs."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).type_as(x)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
        self.to_out = nn.ModuleList([nn.Linear(DIM, DIM)])
        self.norm_q, self.norm_k = nn.RMSNorm(DIM, eps=1e-6), nn.RMSNorm(DIM, eps=1e-6)

    @staticmethod
    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.split(self.norm_k(self.to_k(x))), self.split(self.to_v(x))

    def queries(self, x: Tensor) -> Tensor:
        return self.split(self.norm_q(self.to_q(x)))

    def out(self, x: Tensor) -> Tensor:
        return self.to_out[0](x.transpose(1, 2).flatten(2))


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    if q.is_cuda and bias is None:
        return F.scaled_dot_product_attention(q, k, v)
    # Not torch's own attention, which takes four times as long in training on a CPU with so few keys.
    scores = q @ k.transpose(-1, -2) * HEAD_DIM**-0.5
    return torch.softmax(scores if bias is None else scores + bias, -1) @ v


def attend_causally(q: Tensor, k: Tensor, v: Tensor, frames: int) -> Tensor:
    """Attention mask over `frames` clean and as many noisy frames, at most one window: no frame attends to later ones, and
    noisy frames attend to the clean past."""
    assert frames <= SINK + WINDOW + 1
    each = q.shape[2] // (2 * frames)
    seen = []
    for i in range(2 * frames):
        at = i % frames
        own, past = slice(i * each, (i + 1) * each), slice(max(0, at - WINDOW - SINK) * each, at * each)
        if i < frames:
            near = slice(past.start, own.stop)
            keys, values = k[:, :, near], v[:, :, near]
        else:
            keys, values = (torch.cat([x[:, :, past], x[:, :, own]], 2) for x in (k, v))
        seen.append(attend(q[:, :, own], keys, values))
    return torch.cat(seen, 2)


def padding(features: Tensor) -> Tensor:
    """Attention weight of the last row of features `[B, S, TEXT_DIM]`, which stands for all rows up to `MAX_TOKENS`."""
    weight = math.log(1 + MAX_TOKENS - features.shape[1])
    return F.pad(torch.zeros(features.shape[1] - 1, device=features.device), (0, 1), value=weight)


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        up = nn.Module()
        up.proj = nn.Linear(DIM, FFN_DIM)
        self.net = nn.ModuleList([up, nn.Identity(), nn.Linear(FFN_DIM, DIM)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](F.gelu(self.net[0].proj(x), approximate="tanh"))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """`x` `[B, F, tokens, DIM]`, the others `[B, F, 1, DIM]`."""
    return F.layer_norm(x.float(), (DIM,), eps=1e-6) * (1 + scale) + shift


@dataclass
class Cache:
    """Cache of one block: unrotated keys and values of clean frames, `[B, heads, L, HEAD_DIM]`."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)


def remembered(frames: list[Tensor]) -> list[Tensor]:
    return frames[:SINK] + frames[SINK:][-WINDOW:]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn1, self.attn2, self.ffn = Attention(), Attention(), FeedForward()
        self.norm2 = nn.LayerNorm(DIM, eps=1e-6)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, DIM) / DIM**0.5)

    def forward(
        self, x: Tensor, time: Tensor, text: Tensor, turn: tuple[Tensor, Tensor],
        cache: Cache | None = None, past_turn: tuple[Tensor, Tensor] | None = None, write: bool = False,
    ) -> Tensor:
        """`x` `[B, F, tokens, DIM]`, `time` `[B, F, 6, DIM]`, `text` `[B, S, DIM]`; without a cache, half of the frames
        are clean, or there is only one."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.scale_shift_table[:, None] + time.float()).split(1, 2)
        h = modulate(x, shift1, scale1).flatten(1, 2)
        q, (k, v) = self.attn1.queries(h), self.attn1.keys_values(h)
        frames = x.shape[1] // 2
        if cache is None and frames == 0:
            y = attend(rotate(q, *turn), rotate(k, *turn), v)
        elif cache is None:
            y = attend_causally(rotate(q, *turn), rotate(k, *turn), v, frames)
        else:
            keys, values = torch.cat([*cache.keys, k], 2), torch.cat([*cache.values, v], 2)
            y = attend(rotate(q, *turn), rotate(keys, *past_turn), values)
            if write:
                cache.keys, cache.values = remembered([*cache.keys, k]), remembered([*cache.values, v])
        y = self.attn1.out(y)
        x = x + y.unflatten(1, x.shape[1:3]).float() * gate1
        h = self.norm2(x.float()).flatten(1, 2)
        y = self.attn2.out(attend(self.attn2.queries(h), *self.attn2.keys_values(text), padding(text)))
        x = x + y.unflatten(1, x.shape[1:3]).float()
        y = self.ffn(modulate(x, shift2, scale2))
        return x + y.float() * gate2


# Shared by all blocks in training.
block_without_cache = fused(Block.forward)


class TwoLayers(nn.Module):
    def __init__(self, n_in: int, act: nn.Module) -> None:
        super().__init__()
        self.linear_1, self.act, self.linear_2 = nn.Linear(n_in, DIM), act, nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(self.act(self.linear_1(x)))


class Conditions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time_embedder = TwoLayers(FREQ_DIM, nn.SiLU())
        self.time_proj = nn.Linear(DIM, 6 * DIM)
        self.text_embedder = TwoLayers(TEXT_DIM, nn.GELU(approximate="tanh"))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv3d(CHANNELS, DIM, (1, *PATCH), (1, *PATCH))
        self.condition_embedder = Conditions()
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.proj_out = nn.Linear(DIM, CHANNELS * PATCH[0] * PATCH[1])
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, DIM) / DIM**0.5)
        self.initialise()

    def initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        for block in self.blocks:
            nn.init.zeros_(block.attn2.to_out[0].weight)
        nn.init.zeros_(self.proj_out.weight)

    def embed(self, latents: Tensor) -> Tensor:
        """`[B, F, C, H, W]` to `[B, F, tokens, DIM]`."""
        x = latents.unflatten(4, (-1, PATCH[1])).unflatten(3, (-1, PATCH[0]))
        # Channel, then row, then column, as in the convolution.
        x = x.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)
        return F.linear(x, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)

    def time(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, F]` to `[B, F, DIM]` and `[B, F, 6, DIM]`."""
        frequencies = torch.exp(-math.log(10000) * torch.arange(FREQ_DIM // 2, device=timesteps.device) / (FREQ_DIM // 2))
        angles = timesteps.float()[..., None] * frequencies
        with torch.autocast(timesteps.device.type, enabled=False):
            c = self.condition_embedder
            time = c.time_embedder(torch.cat([angles.cos(), angles.sin()], -1))
            return time, c.time_proj(F.silu(time)).unflatten(-1, (6, DIM))

    def text(self, features: Tensor) -> Tensor:
        return self.condition_embedder.text_embedder(features)

    def head(self, x: Tensor, time: Tensor, height: int, width: int) -> Tensor:
        shift, scale = (self.scale_shift_table[:, None] + time[:, :, None]).split(1, 2)
        x = self.proj_out(modulate(x, shift, scale))
        # Each token's vector is row, column, channel.
        x = x.unflatten(2, (height, width)).unflatten(-1, (*PATCH, CHANNELS))
        return x.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)

    def forward(self, clean: Tensor | None, noisy: Tensor, context_t: Tensor, t: Tensor, features: Tensor) -> Tensor:
        """Predicts every noisy frame without noise, given the clean frames before it, all `[B, F, C, H, W]`.

        Without `clean` there is only the first frame.
        """
        frames, height, width = noisy.shape[1], noisy.shape[3] // PATCH[0], noisy.shape[4] // PATCH[1]
        if clean is None:
            assert frames == 1, "of several frames the finished ones are wanted"
            latents, times, turn = noisy, t, rotary((0,), height, width, noisy.device)
        else:
            latents, times = torch.cat([clean, noisy], 1), torch.cat([context_t, t], 1)
            turn = rotary((*range(frames),) * 2, height, width, noisy.device)
        x = self.embed(latents).float()
        time, time6 = self.time(times)
        text = self.text(features)
        for block in self.blocks:
            x = block_without_cache(block, x, time6, text, turn)
        return self.head(x[:, -frames:], time[:, -frames:], height, width).float()

    def chunk(self, latents: Tensor, timestep: float, text: Tensor, caches: list[Cache], write: bool) -> Tensor:
        """Predicts one latent frame `[B, 1, C, H, W]` after those in the caches."""
        past, height, width = len(caches[0].keys), latents.shape[3] // PATCH[0], latents.shape[4] // PATCH[1]
        x = self.embed(latents).float()
        time, time6 = self.time(torch.full((len(latents), 1), float(timestep), device=latents.device))
        turn = rotary((past,), height, width, latents.device)
        past_turn = rotary((*range(past + 1),), height, width, latents.device)
        for block, cache in zip(self.blocks, caches):
            x = block(x, time6, text, turn, cache, past_turn, write)
        return self.head(x, time, height, width).float()
