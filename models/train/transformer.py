"""The transformer: the blocks and names of diffusers' `WanTransformer3DModel`, small, causal over time, with references.

It predicts clean latents, not the velocity: a token has 192 values, nearly the width of the transformer, which is too
many to carry noise through the network (https://arxiv.org/abs/2511.13720).

A latent frame attends to itself, to the `WINDOW` clean frames before it, to the first frame, and to the references. In training the
clean and the noisy frames are in one sequence. In sampling the clean frames are in a cache with unrotated keys, so that
positions count from the start of the window.

A reference is a picture of a subject as one latent frame. Its tokens attend only to themselves, so their keys and values are
computed once. Each latent frame rotates these keys anew: to the time before it, and to the place where it is to show the subject.
Tokens are larger than the steps between places, so the latents are shifted in a larger square, and a token of a frame equals one
token of the reference. A reference has as many views as shifts that its places need.

Attention alone copies a subject less and less sharply from frame to frame. So each frame also has an overlay (`overlay.py`): the latents
of its references at their places, as they move there, and nothing elsewhere. The overlay is embedded like the frame, and covers the
prediction where it is opaque; the transformer draws the edges, the shadow and everything else.

When the camera moves, the past is no longer where it was. Each head looks at one depth (`DEPTHS`), and sees the past of that depth where
it is now: its positions count in columns of the world, not of the frame. So a layer that moves is copied like one at rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS, HEAD_DIM, LAYERS = 4, 64, 8
DIM, FFN_DIM, FREQ_DIM, TEXT_DIM = HEADS * HEAD_DIM, 1024, 256, 384
CHANNELS, PATCH = 24, (2, 4)  # rows and columns of latents
ALPHA = (2, 2)  # rows and columns of alpha values per latent, so 4 pixels each
WINDOW = 5  # past latent frames in the attention window
SINK = 1  # the first latent frame, always in the attention window
# Time of a reference before the frame, with and without a place, and the place in tokens that stands for none.
TIMES_BEFORE, NOWHERE = (1.0, 2.0), (2.5, 3.0)
# Of the layers that the heads follow: pixels that they move per pixel of the camera.
DEPTHS = (0.0, 0.0, 0.5, 1.0)
COLUMN = 8 * PATCH[1]  # pixels in a column of tokens
# The past is at most so many columns away from where it was: the first frame may be long ago.
FARTHEST = 10
MAX_TOKENS = 64  # of a prompt; padding tokens are zero, but attended to

CONFIG = {
    "_class_name": "WanTransformer3DModel",
    "attention_head_dim": HEAD_DIM,
    "camera_depths": list(DEPTHS),
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
    "reference_alpha": list(ALPHA),
    "reference_overlay": True,
    "rope_max_seq_len": 1024,
    "text_dim": TEXT_DIM,
}

KeysValues = tuple[Tensor, Tensor]


@dataclass
class References:
    """Pictures of `N` subjects: latents of the picture on grey `[B, N, C, h, w]`, its alpha `[B, N, 4, h, w]` (`ALPHA` values
    per latent, row by row), and for each of `F` latent frames the place of its upper left corner in latents, i64 `[B, F, N, 2]` (row,
    column), and whether it is shown, bool `[B, F, N]`. Where `placed`, bool `[B]`, is false, the model chooses the places. `overlay`
    `[B, F, C + 4, H, W]` are the overlays of the frames, zero where nothing is placed."""

    latents: Tensor
    alpha: Tensor
    places: Tensor
    shown: Tensor
    placed: Tensor
    overlay: Tensor

    def at(self, frames: list[int] | slice) -> References:
        return References(
            self.latents, self.alpha, self.places[:, frames], self.shown[:, frames], self.placed, self.overlay[:, frames],
        )

    @property
    def shifts(self) -> Tensor:
        """Of the upper left corner in its token, in latents, i64 `[B, F, N, 2]`."""
        return (self.places % torch.tensor(PATCH, device=self.places.device)) * self.placed[:, None, None, None]

    def views(self) -> tuple[Tensor, Tensor, Tensor]:
        """Latents `[B, N, V, C, H, W]` and alpha `[B, N, V, 4, H, W]` of the shifted pictures, a token larger than the pictures, and
        which of the `V` views each latent frame shows, i64 `[B, F, N]`."""
        shifts = self.shifts
        number = (shifts[..., 0] * PATCH[1] + shifts[..., 1]).transpose(1, 2)  # [B, N, F]
        different = [[each.unique() for each in row] for row in number]
        most = max(len(each) for row in different for each in row)
        views = torch.stack([torch.stack([F.pad(each, (0, most - len(each)), value=-1) for each in row]) for row in different])
        which = (number[..., None] == views[..., None, :]).int().argmax(-1).transpose(1, 2)
        shifted = []
        for values in (self.latents, self.alpha):
            height, width = values.shape[-2:]
            larger = values.new_zeros(*views.shape, values.shape[2], height + PATCH[0], width + PATCH[1])
            for view in range(PATCH[0] * PATCH[1]):
                b, n, v = (views == view).nonzero(as_tuple=True)
                y, x = divmod(view, PATCH[1])
                larger[b, n, v, :, y : y + height, x : x + width] = values[b, n]
            shifted.append(larger)
        return *shifted, which


@dataclass
class Known:
    """Unrotated keys and values of references in each block, `[B, N, V, heads, tokens, HEAD_DIM]`, rows and columns of their
    tokens, and which of the `V` views each latent frame shows, i64 `[B, F, N]`."""

    blocks: list[KeysValues]
    grid: tuple[int, int]
    which: Tensor

    def at(self, frames: list[int] | slice) -> Known:
        return Known(self.blocks, self.grid, self.which[:, frames])


def turns(time: Tensor, top: Tensor, left: Tensor, rows: int, columns: int) -> Tensor:
    """Rotations `[..., rows * columns, HEAD_DIM / 2]`, complex, of tokens from these times and places `[...]` on."""
    side = 2 * (HEAD_DIM // 6)
    dims = (HEAD_DIM - 2 * side, side, side)

    def angles(positions: Tensor, dim: int) -> Tensor:
        each = torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device)
        return positions.double()[..., None] * 10000.0 ** (-each / dim)

    y = top[..., None].double() + torch.arange(rows, device=top.device)
    x = left[..., None].double() + torch.arange(columns, device=top.device)
    shape = (*time.shape, rows, columns, -1)
    t = angles(time, dims[0])[..., None, None, :].expand(shape)
    y, x = angles(y, dims[1])[..., :, None, :].expand(shape), angles(x, dims[2])[..., None, :, :].expand(shape)
    grid = torch.cat([t, y, x], -1).flatten(-3, -2)
    return torch.polar(torch.ones_like(grid), grid).to(torch.complex64)


@lru_cache(maxsize=None)
def turns_of_frames(first: int, count: int, rows: int, columns: int) -> Tensor:
    """`[count * rows * columns, HEAD_DIM / 2]` for latent frames from this time on."""
    time = torch.arange(first, first + count)
    return turns(time, torch.zeros(count), torch.zeros(count), rows, columns).flatten(0, 1)


def columns_of(camera: Tensor) -> Tensor:
    """Columns of tokens `[..., heads]` that each head sees the camera moved, for pixels `[...]`."""
    return camera[..., None] * torch.tensor(DEPTHS) / COLUMN


def turns_of_moved(times: Tensor, moved: Tensor, rows: int, columns: int) -> Tensor:
    """`[B, heads, F * rows * columns, HEAD_DIM / 2]` for latent frames at the times `[F]`, moved by columns `[B, F, heads]`."""
    left = moved.transpose(1, 2)
    return turns(times.expand(left.shape), torch.zeros_like(left), left, rows, columns).flatten(2, 3)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Rotates `[..., HEAD_DIM]` in adjacent pairs."""
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(-2)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
        self.to_out = nn.ModuleList([nn.Linear(DIM, DIM)])
        self.norm_q, self.norm_k = nn.RMSNorm(DIM, eps=1e-6), nn.RMSNorm(DIM, eps=1e-6)

    @staticmethod
    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2)

    def keys_values(self, x: Tensor) -> KeysValues:
        return self.split(self.norm_k(self.to_k(x))), self.split(self.to_v(x))

    def queries(self, x: Tensor) -> Tensor:
        return self.split(self.norm_q(self.to_q(x)))

    def out(self, x: Tensor) -> Tensor:
        return self.to_out[0](x.transpose(1, 2).flatten(2))


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    # Not torch's own attention, which takes four times as long in training on a CPU with so few keys.
    scores = (q * HEAD_DIM**-0.5) @ k.transpose(-1, -2)
    return torch.softmax(scores if bias is None else scores + bias, -1) @ v


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
    return torch.addcmul(shift, F.layer_norm(x, (DIM,), eps=1e-6), 1 + scale)


@dataclass
class PlacedKeys:
    """Keys and values of references in one block, rotated for each latent frame: `[B, F, heads, L, HEAD_DIM]`, and a bias
    `[B, F, 1, 1, L]` that hides what a frame does not show."""

    keys: Tensor
    values: Tensor
    bias: Tensor | None

    def frame(self, i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of the queries of frame `i` to the references and to `k` and `v`."""
        bias = None if self.bias is None else F.pad(self.bias[:, i], (0, k.shape[2]))
        return attend(q, torch.cat([self.keys[:, i], k], 2), torch.cat([self.values[:, i], v], 2), bias)


def attend_causally(q: Tensor, k: Tensor, v: Tensor, frames: int, shown: PlacedKeys | None) -> Tensor:
    """Attention of `frames - 1` clean and then `frames` noisy frames, at most one window: no frame attends to later ones, and
    noisy frames attend to the clean past."""
    assert frames <= SINK + WINDOW + 1
    each, seen = q.shape[2] // (2 * frames - 1), []
    for i in range(2 * frames - 1):
        at = i if i < frames - 1 else i - frames + 1
        own, past = slice(i * each, (i + 1) * each), slice(0, at * each)
        keys, values = (x[:, :, : own.stop] if i == at else torch.cat([x[:, :, past], x[:, :, own]], 2) for x in (k, v))
        seen.append(shown.frame(at, q[:, :, own], keys, values) if shown else attend(q[:, :, own], keys, values))
    return torch.cat(seen, 2)


@dataclass
class Cache:
    """Cache of one block: unrotated keys and values of clean frames, `[B, heads, L, HEAD_DIM]`."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)


def remembered(frames: list) -> list:
    return frames[:SINK] + frames[SINK:][-WINDOW:]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn1, self.attn2, self.ffn = Attention(), Attention(), FeedForward()
        self.norm2 = nn.LayerNorm(DIM, eps=1e-6)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, DIM) / DIM**0.5)

    def forward(self, x: Tensor, time: Tensor, text: KeysValues, hide: Tensor, look) -> Tensor:
        """`x` `[B, F, tokens, DIM]`, `time` `[B, F, 6, DIM]`, `text` the keys and values of the prompt. `look` attends from
        queries to keys and values, all `[B, heads, F * tokens, HEAD_DIM]` and unrotated."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.scale_shift_table[:, None] + time).split(1, 2)
        h = modulate(x, shift1, scale1).flatten(1, 2)
        y = self.attn1.out(look(self.attn1.queries(h), *self.attn1.keys_values(h)))
        x = torch.addcmul(x, y.view_as(x), gate1)
        y = self.attn2.out(attend(self.attn2.queries(self.norm2(x).flatten(1, 2)), *text, hide))
        x = x + y.view_as(x)
        return torch.addcmul(x, self.ffn(modulate(x, shift2, scale2)), gate2)


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


@dataclass
class Text:
    """Keys and values of a prompt in each block."""

    blocks: list[KeysValues]
    hide: Tensor

    def repeat(self, times: int) -> Text:
        return Text([tuple(x.repeat_interleave(times, 0) for x in pair) for pair in self.blocks], self.hide)


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv3d(CHANNELS, DIM, (1, *PATCH), (1, *PATCH))
        # Of references: a token's alpha, row by row, and what marks it as a reference.
        self.reference_embedding = nn.Linear(math.prod(PATCH) * math.prod(ALPHA), DIM)
        overlay = CHANNELS + math.prod(ALPHA)
        self.overlay_embedding = nn.Linear(overlay * math.prod(PATCH), DIM, bias=False)
        self.overlay_out = nn.Linear(overlay, CHANNELS, bias=False)
        self.condition_embedder = Conditions()
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.proj_out = nn.Linear(DIM, CHANNELS * PATCH[0] * PATCH[1])
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, DIM) / DIM**0.5)
        self.initialise()

    def initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        for block in self.blocks:
            nn.init.zeros_(block.attn2.to_out[0].weight)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.reference_embedding.weight)
        nn.init.zeros_(self.overlay_embedding.weight)
        nn.init.eye_(self.overlay_out.weight)

    @staticmethod
    def tokens(x: Tensor) -> Tensor:
        """`[B, F, C, H, W]` to `[B, F, tokens, values]`: channel, then row, then column, as in the convolution."""
        x = x.unflatten(4, (-1, PATCH[1])).unflatten(3, (-1, PATCH[0]))
        return x.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)

    def embed(self, latents: Tensor) -> Tensor:
        """`[B, F, C, H, W]` to `[B, F, tokens, DIM]`."""
        return F.linear(self.tokens(latents), self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)

    def time(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, F]` to `[B, F, DIM]` and `[B, F, 6, DIM]`."""
        frequencies = torch.exp(-math.log(10000) * torch.arange(FREQ_DIM // 2, device=timesteps.device) / (FREQ_DIM // 2))
        angles = timesteps.float()[..., None] * frequencies
        c = self.condition_embedder
        time = c.time_embedder(torch.cat([angles.cos(), angles.sin()], -1))
        return time, c.time_proj(F.silu(time)).unflatten(-1, (6, DIM))

    def text(self, features: Tensor) -> Text:
        """Of features `[B, S, TEXT_DIM]`."""
        text = self.condition_embedder.text_embedder(features)
        return Text([block.attn2.keys_values(text) for block in self.blocks], padding(features))

    def head(self, x: Tensor, time: Tensor, references: References | None, height: int, width: int) -> Tensor:
        shift, scale = (self.scale_shift_table[:, None] + time[:, :, None]).split(1, 2)
        x = self.proj_out(modulate(x, shift, scale))
        # Each token's vector is row, column, channel.
        x = x.unflatten(2, (height, width)).unflatten(-1, (*PATCH, CHANNELS))
        x = x.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)
        if references is None:
            return x
        alpha = references.overlay[:, :, CHANNELS:].mean(2, keepdim=True)
        return x * (1 - alpha) + self.overlay_out(references.overlay.movedim(2, -1)).movedim(-1, 2)

    def remember(self, references: References, text: Text) -> Known:
        latents, alpha, which = references.views()
        size, count, views = latents.shape[:3]
        grid = latents.shape[-2] // PATCH[0], latents.shape[-1] // PATCH[1]
        # Pictures do not attend to each other: each is a sample of its own.
        x = self.embed(latents.flatten(0, 2)[:, None]) + self.reference_embedding(self.tokens(alpha.flatten(0, 2)[:, None]))
        _, time = self.time(torch.zeros(len(x), 1, device=x.device))
        text, turn, made = text.repeat(count * views), turns_of_frames(0, 1, *grid).to(x.device), []

        def look(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            made.append(tuple(y.unflatten(0, (size, count, views)) for y in (k, v)))
            return attend(rotate(q, turn), rotate(k, turn), v)

        for i, block in enumerate(self.blocks):
            x = block(x, time, text.blocks[i], text.hide, look)
        return Known(made, grid, which)

    @staticmethod
    def place(references: References, grid: tuple[int, int], times: Tensor, moved: Tensor) -> tuple[Tensor, Tensor | None]:
        """Rotations `[B, F, heads, N * tokens, HEAD_DIM / 2]` of the references for latent frames at these times `[F]`, moved by columns
        `[B, F, heads]`, and their bias."""
        placed = references.placed[:, None, None]
        corner = (references.places - references.shifts) / torch.tensor(PATCH, device=references.places.device)
        top, left = torch.where(placed[..., None], corner, torch.tensor(NOWHERE)).unbind(-1)
        time = times[None, :, None] - torch.where(placed, *TIMES_BEFORE)
        left = left[:, :, None] + moved[..., None]  # [B, F, heads, N]
        turn = turns(time[:, :, None].expand(left.shape), top[:, :, None].expand(left.shape), left, *grid)
        bias = None
        if not references.shown.all():
            bias = torch.zeros(references.shown.shape).masked_fill(~references.shown, -1e4)
            bias = bias.repeat_interleave(grid[0] * grid[1], 2)[:, :, None, None].to(turn.device)
        return turn.flatten(3, 4), bias

    @staticmethod
    def placed_keys(known: KeysValues, which: Tensor, turn: Tensor, bias: Tensor | None) -> PlacedKeys:
        size, _, count = which.shape
        b, n = torch.arange(size)[:, None, None], torch.arange(count)
        # [B, F, heads, N * tokens, HEAD_DIM]
        keys, values = (x[b, n, which].transpose(2, 3).flatten(3, 4) for x in known)
        return PlacedKeys(rotate(keys, turn), values, bias)

    def forward(
        self, clean: Tensor | None, noisy: Tensor, context_t: Tensor | None, t: Tensor, features: Tensor,
        references: References | None = None, camera: Tensor | None = None,
    ) -> Tensor:
        """Predicts every noisy frame without noise, given the clean frames before it, all `[B, F, C, H, W]` (`clean` has one
        frame less). Without `clean` there is only the first frame. `camera` `[B, F]` is where it is, in pixels to the right."""
        frames, height, width = noisy.shape[1], noisy.shape[3] // PATCH[0], noisy.shape[4] // PATCH[1]
        assert (clean is None) == (frames == 1), "of several frames the finished ones are wanted"
        latents, times = (noisy, t) if clean is None else (torch.cat([clean, noisy], 1), torch.cat([context_t, t], 1))
        moved = columns_of(torch.zeros(noisy.shape[:2]) if camera is None else camera).to(noisy.device)
        turn = turns_of_moved(torch.arange(frames, device=noisy.device), moved, height, width)
        turn = torch.cat([turn[:, :, : (frames - 1) * height * width], turn], 2)
        x, (time, time6), text = self.embed(latents), self.time(times), self.text(features)
        if references:
            overlay = self.overlay_embedding(self.tokens(references.overlay))
            x = x + torch.cat([overlay[:, : frames - 1], overlay], 1)
        known = self.remember(references, text) if references else None
        placed = self.place(references, known.grid, torch.arange(frames), moved) if references else None

        for i, block in enumerate(self.blocks):
            shown = self.placed_keys(known.blocks[i], known.which, *placed) if known else None
            x = block(
                x, time6, text.blocks[i], text.hide,
                lambda q, k, v: attend_causally(rotate(q, turn), rotate(k, turn), v, frames, shown),  # noqa: B023
            )
        return self.head(x[:, -frames:], time[:, -frames:], references, height, width)

    def chunk(
        self, latents: Tensor, timestep: float, text: Text, caches: list[Cache], write: bool,
        references: References | None = None, known: Known | None = None, camera: Tensor | None = None,
    ) -> Tensor:
        """Predicts one latent frame `[B, 1, C, H, W]` after those in the caches; `references` and `known` are of this frame only.
        `camera` `[B, 1 + past frames]` is where it was in these frames, and is now, in pixels to the right."""
        past, height, width = len(caches[0].keys), latents.shape[3] // PATCH[0], latents.shape[4] // PATCH[1]
        camera = torch.zeros(len(latents), past + 1) if camera is None else camera
        moved = columns_of(camera - camera[:, -1:]).clamp(-FARTHEST, FARTHEST)
        x = self.embed(latents)
        if references:
            x = x + self.overlay_embedding(self.tokens(references.overlay))
        time, time6 = self.time(torch.full((len(latents), 1), float(timestep)))
        turn, all_turns = turns_of_frames(past, 1, height, width), turns_of_moved(torch.arange(past + 1), moved, height, width)
        placed = self.place(references, known.grid, torch.tensor([past]), moved[:, -1:]) if references else None
        for i, (block, cache) in enumerate(zip(self.blocks, caches)):
            shown = self.placed_keys(known.blocks[i], known.which, *placed) if references else None

            def look(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                keys, values = torch.cat([*cache.keys, k], 2), torch.cat([*cache.values, v], 2)  # noqa: B023
                if write:
                    cache.keys, cache.values = remembered([*cache.keys, k]), remembered([*cache.values, v])  # noqa: B023
                q, keys = rotate(q, turn), rotate(keys, all_turns)
                return shown.frame(0, q, keys, values) if shown else attend(q, keys, values)  # noqa: B023

            x = block(x, time6, text.blocks[i], text.hide, look)
        return self.head(x, time, references, height, width)
