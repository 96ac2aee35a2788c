"""Creates tiny pipelines with two transformers, like Wan 2.2 A14B, in tests/fixtures/experts with diffusers, and their
reference results.

    python make_experts.py
"""

import json
import shutil
from pathlib import Path

import torch
from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline, WanPipeline
from make_pipelines import UNIPC, VAE_21, picture, text_encoder, tokenizer, transformer, vae
from safetensors.torch import save_file

FIXTURES = Path(__file__).parent.parent / "fixtures" / "experts"


def parts(seed, in_channels, shift):
    tokens, vocab = tokenizer()
    # Both have the same architecture and different weights.
    first, second = (
        transformer(
            seed + 3 + i,
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=in_channels,
            out_channels=4,
            text_dim=12,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
        )
        for i in range(2)
    )
    return dict(
        tokenizer=tokens,
        text_encoder=text_encoder(vocab, 12, 1, 8, 16, 2, seed + 1),
        vae=vae(seed + 2, 4, **(VAE_21 | dict(base_dim=3))),
        scheduler=UniPCMultistepScheduler(**UNIPC, flow_shift=shift),
        transformer=first,
        transformer_2=second,
    )


def t2v():
    request = dict(
        prompt="a red fox in the snow", negative="blurry", guidance=4.0, guidance_2=3.0, steps=4, width=48, height=32, frames=5
    )
    return WanPipeline(**parts(60, 4, 3.0), boundary_ratio=0.875), request


def i2v():
    """The image as input channels: four of a mask, and the latents of the image followed by a grey video."""
    request = dict(
        prompt="the fox runs", negative="slow", guidance=3.5, steps=4, width=32, height=48, frames=9, image="image.png"
    )
    return WanImageToVideoPipeline(**parts(70, 12, 5.0), boundary_ratio=0.9), request


@torch.no_grad()
def make(name, build):
    pipeline, request = build()
    folder = FIXTURES / name
    shutil.rmtree(folder, ignore_errors=True)
    pipeline.save_pretrained(folder)
    for file in list(folder.rglob("README.md")) + list(folder.rglob("chat_template*")):
        file.unlink()
    pipeline.set_progress_bar_config(disable=True)

    height, width, frames = request["height"], request["width"], request["frames"]
    shape = (1, 4, (frames - 1) // 4 + 1, height // 8, width // 8)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    arguments = dict(
        prompt=request["prompt"],
        negative_prompt=request["negative"],
        height=height,
        width=width,
        num_frames=frames,
        num_inference_steps=request["steps"],
        guidance_scale=request["guidance"],
        guidance_scale_2=request.get("guidance_2"),
        latents=latents.clone(),
        max_sequence_length=512,
    )
    if "image" in request:
        arguments["image"] = picture(width, height)
        arguments["image"].save(folder / request["image"])
    used = []
    for part in ("transformer", "transformer_2"):
        module = getattr(pipeline, part)

        def forward(*rest, _part=part, _forward=module.forward, **named):
            used.append(_part)
            return _forward(*rest, **named)

        module.forward = forward
    made = pipeline(**arguments, output_type="np").frames[0]
    expected = {"latents": latents, "frames": torch.from_numpy(made).float()}
    save_file({key: value.contiguous() for key, value in expected.items()}, folder / "expected.safetensors")
    (folder / "request.json").write_text(json.dumps(request, indent=2) + "\n")
    assert used == ["transformer"] * 4 + ["transformer_2"] * 4, used
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    inside = float(((expected["frames"] > 0) & (expected["frames"] < 1)).float().mean())
    print(f"{name}: frames {made.shape} std {made.std():.3f}, {inside:.0%} of them inside, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    torch.set_num_threads(1)
    make("t2v", t2v)
    make("i2v", i2v)
