"""Records one pass of a causal Wan transformer in tests/fixtures/causal.safetensors.

The weights are those of the pipeline t2v-unipc, the blocks those of diffusers. Only the self-attention is
replaced: a frame attends to its own chunk and to the earlier frames that a rolling cache would still hold,
at positions counted from the first of them. With an unlimited cache this equals
attention with a block-causal mask, which is used then.

    python make_causal.py
"""

import types
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

FIXTURES = Path(__file__).parent.parent / "fixtures"
FRAMES, HEIGHT, WIDTH = 8, 4, 6
TOKENS = HEIGHT * WIDTH // 4  # a frame
CHUNK = 2
# window and sink, in frames
CASES = {"all": (FRAMES, 0), "rolling": (3, 0), "sink": (3, 1)}


CHUNKS = [range(first, first + CHUNK) for first in range(0, FRAMES, CHUNK)]


def seen(chunk, window, sink):
    """The earlier frames that a chunk attends to."""
    return [f for f in range(chunk.start) if f < sink or f >= chunk.start - window]


def rotate(x, frequencies):
    cos, sin = frequencies
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


class Rolling:
    """Attention processor: each chunk separately, over the frames that it attends to."""

    def __init__(self, rope, window, sink, chunks=CHUNKS, grid=(HEIGHT, WIDTH)):
        self.rope, self.window, self.sink, self.chunks, self.grid = rope, window, sink, chunks, grid

    def frequencies(self, frames):
        return self.rope(torch.empty(1, 1, frames, *self.grid))

    def __call__(self, attn, hidden, _context=None, _mask=None, _rotary=None):
        split = lambda x: x.unflatten(2, (attn.heads, -1))
        q, k, v = split(attn.norm_q(attn.to_q(hidden))), split(attn.norm_k(attn.to_k(hidden))), split(attn.to_v(hidden))
        tokens = hidden.shape[1] // self.chunks[-1].stop  # a frame
        frames = lambda x, which: torch.cat([x[:, f * tokens : (f + 1) * tokens] for f in which], 1)
        out = []
        for chunk in self.chunks:
            keys = [*seen(chunk, self.window, self.sink), *chunk]
            cos, sin = self.frequencies(len(keys))
            tail = (cos[:, -len(chunk) * tokens :], sin[:, -len(chunk) * tokens :])
            query = rotate(frames(q, chunk), tail)
            key = rotate(frames(k, keys), (cos, sin))
            value = frames(v, keys)
            found = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, key, value)))
            out.append(found.transpose(1, 2).flatten(2))
        return attn.to_out[0](torch.cat(out, 1))


def masked(model):
    """diffusers' attention with a block-causal mask."""
    chunk = torch.arange(FRAMES * TOKENS) // (CHUNK * TOKENS)
    mask = chunk[:, None] >= chunk[None, :]
    for block in model.blocks:
        processor = block.attn1.processor
        forward = lambda self, hidden, context=None, _mask=None, rotary=None, processor=processor: processor(
            self, hidden, context, mask, rotary
        )
        block.attn1.forward = types.MethodType(forward, block.attn1)


@torch.no_grad()
def main():
    folder = FIXTURES / "pipelines" / "t2v-unipc"
    text = load_file(folder / "expected.safetensors")["prompt_embeds"]
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(1, 4, FRAMES, HEIGHT, WIDTH, generator=generator)
    # One per frame, also different within a chunk.
    timesteps = torch.tensor([0.0, 250.0, 500.0, 1000.0, 833.0, 0.0, 625.0, 625.0])
    tensors = {"latents": latents, "timesteps": timesteps, "prompt_embeds": text}

    def run(prepare):
        model = WanTransformer3DModel.from_pretrained(folder / "transformer").eval()
        prepare(model)
        return model(latents, timesteps.repeat_interleave(TOKENS)[None], text, return_dict=False)[0]

    def roll(model, case):
        for block in model.blocks:
            block.attn1.set_processor(Rolling(model.rope, *CASES[case]))

    tensors["bidirectional"] = run(lambda _: None)
    tensors["all"] = run(masked)
    torch.testing.assert_close(run(lambda model: roll(model, "all")), tensors["all"], rtol=1e-5, atol=1e-5)
    for case in ("rolling", "sink"):
        tensors[case] = run(lambda model: roll(model, case))
        print(case, "differs from all by", float((tensors[case] - tensors["all"]).abs().max()))
    print("bidirectional differs from all by", float((tensors["bidirectional"] - tensors["all"]).abs().max()))
    save_file(tensors, FIXTURES / "causal.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
