"""Creates a tiny VACE pipeline in tests/fixtures/vace with diffusers, and what it makes of control videos, masks and references.

    python make_vace.py
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import UniPCMultistepScheduler, WanVACEPipeline, WanVACETransformer3DModel
from make_pipelines import UNIPC, VAE_21, picture, scramble, text_encoder, tokenizer, vae
from make_video_to_video import video
from PIL import Image
from safetensors.torch import save_file

FOLDER = Path(__file__).parent.parent / "fixtures" / "vace"
LATENTS = 4
REQUEST = dict(prompt="a red fox in the snow", negative="blurry", steps=3)
# Size, frames and guidance of each case, and what steers it.
CASES = {
    "text": dict(size=(48, 32), frames=5, guidance=1.0),
    "control": dict(size=(48, 32), frames=9, guidance=4.0, control=True),
    "scale": dict(size=(32, 48), frames=5, guidance=1.0, control=True, scale=0.4),
    "mask": dict(size=(32, 48), frames=9, guidance=1.0, control=True, mask=True),
    "reference": dict(size=(48, 32), frames=5, guidance=1.0, references=["wide.png"]),
    "references": dict(size=(48, 32), frames=9, guidance=3.0, control=True, references=["wide.png", "tall.png"]),
    "first-last": dict(size=(48, 32), frames=9, guidance=1.0, ends=["wide.png", "tall.png"]),
}


def pipeline():
    tokens, vocab = tokenizer()
    transformer = WanVACETransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=LATENTS, out_channels=LATENTS, text_dim=12, freq_dim=16,
        ffn_dim=32, num_layers=4, vace_layers=[0, 2], vace_in_channels=2 * LATENTS + 64,
    )
    return WanVACEPipeline(
        tokenizer=tokens,
        text_encoder=text_encoder(vocab, 12, 1, 8, 16, 2, 81),
        vae=vae(82, LATENTS, **(VAE_21 | dict(base_dim=3))),
        scheduler=UniPCMultistepScheduler(**UNIPC, flow_shift=3.0),
        # Strong attention, so that the order of references matters.
        transformer=scramble(transformer, 83, {"attn1.norm_q": 3, "attn1.to_v": 3, "attn1.to_out": 2}),
    )


def mask(frames, width, height):
    """A rectangle that grows, white, u8 `[T, H, W]`."""
    made = np.zeros((frames, height, width), np.uint8)
    for t in range(frames):
        made[t, height // 4 : height // 2 + t, : width // 3 + 2 * t] = 255
    return made


def conditions(case):
    """The arguments of diffusers, and the tensors that the engine gets."""
    (width, height), frames = case["size"], case["frames"]
    arguments, tensors = {}, {}
    if case.get("control"):
        shown = video(frames, width, height)
        arguments["video"], tensors["control"] = [Image.fromarray(frame) for frame in shown], torch.from_numpy(shown)
    if case.get("mask"):
        white = mask(frames, width, height)
        arguments["mask"], tensors["mask"] = [Image.fromarray(frame) for frame in white], torch.from_numpy(white)
    if "references" in case:
        arguments["reference_images"] = [Image.open(FOLDER / name) for name in case["references"]]
    if "ends" in case:
        # Known frames are black in the mask; the others are grey, exactly 0 in the range of the autoencoder.
        shown, white = torch.full((frames, 3, height, width), 0.5), torch.ones(frames, 3, height, width)
        for at, name in zip((0, -1), case["ends"]):
            pixels = np.array(Image.open(FOLDER / name).resize((width, height), Image.LANCZOS), np.float32) / 255
            shown[at], white[at] = torch.from_numpy(pixels).permute(2, 0, 1), 0
        arguments["video"], arguments["mask"] = [shown], [white]
    return arguments, tensors


@torch.no_grad()
def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    made = pipeline()
    made.save_pretrained(FOLDER)
    for file in list(FOLDER.rglob("README.md")) + list(FOLDER.rglob("chat_template*")):
        file.unlink()
    made.set_progress_bar_config(disable=True)
    picture(40, 20).save(FOLDER / "wide.png")
    picture(20, 36).transpose(Image.FLIP_LEFT_RIGHT).save(FOLDER / "tall.png")
    expected = {}
    for name, case in CASES.items():
        (width, height), frames = case["size"], case["frames"]
        latent_frames = (frames - 1) // 4 + 1 + len(case.get("references", []))
        shape = (1, LATENTS, latent_frames, height // 8, width // 8)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(7))
        arguments, tensors = conditions(case)
        result = made(
            prompt=REQUEST["prompt"], negative_prompt=REQUEST["negative"], height=height, width=width, num_frames=frames,
            num_inference_steps=REQUEST["steps"], guidance_scale=case["guidance"], conditioning_scale=case.get("scale", 1.0),
            latents=noise.clone(), output_type="np", max_sequence_length=512, **arguments,
        ).frames[0]
        tensors |= {"latents": noise, "frames": torch.from_numpy(result).float()}
        expected |= {f"{name}.{key}": value.contiguous() for key, value in tensors.items()}
        inside = float(((result > 0) & (result < 1)).mean())
        print(f"{name}: {result.shape}, std {result.std():.3f}, {inside:.0%} inside")
    save_file(expected, FOLDER / "expected.safetensors")
    (FOLDER / "cases.json").write_text(json.dumps(REQUEST | {"cases": CASES}, indent=2) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
