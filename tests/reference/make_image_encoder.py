"""Creates tiny pipelines that read their images with CLIP, like Wan 2.1 I2V-14B and FLF2V-14B, in tests/fixtures/image_encoder with
diffusers, and their reference results.

    python make_image_encoder.py
"""

import json
import shutil
from pathlib import Path

import torch
from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline
from make_pipelines import UNIPC, VAE_21, picture, scramble, text_encoder, tokenizer, transformer, vae
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

FIXTURES = Path(__file__).parent.parent / "fixtures" / "image_encoder"
WIDTH, SIDE, PATCH, TOKENS = 24, 28, 7, 17


def encoder(seed):
    config = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=40, num_hidden_layers=3, num_attention_heads=2, image_size=SIDE, patch_size=PATCH,
        hidden_act="gelu",
    )
    return scramble(CLIPVisionModel(config), seed)


def parts(seed, images):
    tokens, vocab = tokenizer()
    return dict(
        tokenizer=tokens,
        text_encoder=text_encoder(vocab, 12, 1, 8, 16, 2, seed + 1),
        vae=vae(seed + 2, 4, **(VAE_21 | dict(base_dim=3))),
        scheduler=UniPCMultistepScheduler(**UNIPC, flow_shift=5.0),
        image_encoder=encoder(seed + 3),
        image_processor=CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        transformer=transformer(
            seed + 4, num_attention_heads=2, attention_head_dim=12, in_channels=12, out_channels=4, text_dim=12, freq_dim=16,
            ffn_dim=32, num_layers=2, image_dim=WIDTH, added_kv_proj_dim=24, pos_embed_seq_len=2 * TOKENS if images == 2 else None,
        ),
    )


REQUESTS = {
    "i2v": dict(prompt="the fox runs", negative="slow", guidance=3.5, steps=3, width=32, height=48, frames=9, image="image.png"),
    "flf2v": dict(
        prompt="a bird in the sea", negative="", guidance=2.0, steps=3, width=48, height=32, frames=9, image="image.png",
        last_image="last.png",
    ),
}


@torch.no_grad()
def make(name, seed):
    request, folder = REQUESTS[name], FIXTURES / name
    pipeline = WanImageToVideoPipeline(**parts(seed, 2 if "last_image" in request else 1))
    shutil.rmtree(folder, ignore_errors=True)
    pipeline.save_pretrained(folder)
    for file in list(folder.rglob("README.md")) + list(folder.rglob("chat_template*")):
        file.unlink()
    pipeline.set_progress_bar_config(disable=True)
    height, width, frames = request["height"], request["width"], request["frames"]
    noise = torch.randn((1, 4, (frames - 1) // 4 + 1, height // 8, width // 8), generator=torch.Generator().manual_seed(7))
    # Wider than high, so that a part is cropped.
    images = {"image": picture(70, 41), "last_image": picture(45, 80).transpose(Image.FLIP_LEFT_RIGHT)}
    images = {key: image for key, image in images.items() if key in request}
    for key, image in images.items():
        image.save(folder / request[key])
    read = pipeline.encode_image(list(images.values()))
    made = pipeline(
        prompt=request["prompt"], negative_prompt=request["negative"], height=height, width=width, num_frames=frames,
        num_inference_steps=request["steps"], guidance_scale=request["guidance"], latents=noise.clone(), output_type="np",
        max_sequence_length=512, **images,
    ).frames[0]
    expected = {"latents": noise, "frames": torch.from_numpy(made).float(), "images": read}
    save_file({key: value.contiguous() for key, value in expected.items()}, folder / "expected.safetensors")
    (folder / "request.json").write_text(json.dumps(request, indent=2) + "\n")
    print(f"{name}: frames {made.shape} std {made.std():.3f}, images {tuple(read.shape)} std {read.std():.3f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    make("i2v", 90)
    make("flf2v", 100)
