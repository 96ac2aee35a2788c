"""Creates the tiny pipelines in tests/fixtures/pipelines with diffusers, and their reference results.

All weights are random, including norms, biases and tables, so that every missing part is noticed.

    python make_pipelines.py
"""

import copy
import json
import math
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from PIL import Image
from safetensors.torch import save_file
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

FIXTURES = Path(__file__).parent.parent / "fixtures" / "pipelines"

WORDS = "a the of in and on over fox cat dog runs snow sea bird blue red green slow blurry".split()
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'\"&-()<>AFT"


def tokenizer():
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -4.0)]
    vocab += [(f"▁{word}", -3.0 - 0.1 * i) for i, word in enumerate(WORDS)]
    vocab += [(letter, -6.0 - 0.01 * i) for i, letter in enumerate(LETTERS)]
    return T5Tokenizer(vocab=vocab, extra_ids=0), len(vocab)


def scramble(model, seed, gains={}):
    """Fills `model` with random weights that keep activations near one."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        random = torch.randn(parameter.shape, generator=generator)
        last = name.split(".")[-1]
        if "relative_attention_bias" in name or "shared" in name or "embed_tokens" in name:
            value = random
        elif name.endswith("SelfAttention.q.weight"):
            value = random / math.sqrt(parameter.shape[1] * model.config.d_kv) * 2
        elif "norm" in name and last in ("weight", "gamma"):
            value = 1 + 0.3 * random
        elif parameter.dim() == 1 or "scale_shift_table" in name:
            value = 0.3 * random
        else:
            value = random / math.sqrt(parameter[0].numel())
        for part, gain in gains.items():
            if part in name:
                value = value * gain
        parameter.data.copy_(value)
    return model.eval()


def text_encoder(vocab_size, d_model, heads, d_kv, d_ff, layers, seed):
    config = UMT5Config(
        vocab_size=vocab_size,
        d_model=d_model,
        d_kv=d_kv,
        d_ff=d_ff,
        num_layers=layers,
        num_heads=heads,
        dropout_rate=0.0,
    )
    return scramble(UMT5EncoderModel(config), seed)


def vae(seed, z_dim, **config):
    random = np.random.default_rng(seed)
    model = AutoencoderKLWan(
        z_dim=z_dim,
        latents_mean=[round(float(x), 4) for x in random.normal(0, 0.5, z_dim)],
        latents_std=[round(float(x), 4) for x in random.uniform(0.5, 2.5, z_dim)],
        **config,
    )
    return scramble(model, seed, {"decoder.conv_out": 0.4})


VAE_21 = dict(base_dim=4, dim_mult=[1, 2, 4, 4], num_res_blocks=1, temperal_downsample=[False, True, True])
VAE_22 = dict(
    base_dim=4,
    decoder_base_dim=6,
    dim_mult=[1, 2, 4, 4],
    num_res_blocks=1,
    temperal_downsample=[False, True, True],
    is_residual=True,
    in_channels=12,
    out_channels=12,
    patch_size=2,
    scale_factor_spatial=16,
)

UNIPC = dict(
    prediction_type="flow_prediction",
    use_flow_sigmas=True,
    num_train_timesteps=1000,
)


def transformer(seed, **config):
    return scramble(WanTransformer3DModel(**config), seed)


def t2v_unipc():
    tokens, vocab = tokenizer()
    parts = dict(
        tokenizer=tokens,
        text_encoder=text_encoder(vocab, 20, 2, 8, 28, 2, 11),
        vae=vae(12, 4, **VAE_21),
        scheduler=UniPCMultistepScheduler(**UNIPC, flow_shift=3.0),
        transformer=transformer(
            13,
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=20,
            freq_dim=16,
            ffn_dim=40,
            num_layers=2,
        ),
    )
    request = dict(
        prompt="A  red fox &amp;amp; a “blue” bird\truns over the snow",
        guidance=1.0,
        steps=4,
        width=48,
        height=32,
        frames=9,
    )
    return WanPipeline(**parts), request


def t2v_euler():
    tokens, vocab = tokenizer()
    parts = dict(
        tokenizer=tokens,
        text_encoder=text_encoder(vocab, 24, 3, 6, 32, 3, 21),
        vae=vae(22, 6, **(VAE_21 | dict(base_dim=6, dim_mult=[1, 1, 2, 2], num_res_blocks=2))),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        transformer=transformer(
            23,
            num_attention_heads=3,
            attention_head_dim=16,
            in_channels=6,
            out_channels=6,
            text_dim=24,
            freq_dim=32,
            ffn_dim=56,
            num_layers=3,
            rope_max_seq_len=64,
        ),
    )
    request = dict(
        prompt="the cat and the dog on the green sea",
        negative="slow, blurry",
        guidance=4.0,
        steps=3,
        width=32,
        height=48,
        frames=5,
    )
    return WanPipeline(**parts), request


def ti2v_22_parts(seed):
    tokens, vocab = tokenizer()
    return dict(
        tokenizer=tokens,
        text_encoder=text_encoder(vocab, 16, 2, 8, 24, 2, seed + 1),
        vae=vae(seed + 2, 8, **VAE_22),
        scheduler=UniPCMultistepScheduler(**UNIPC, flow_shift=5.0),
        transformer=transformer(
            seed + 3,
            num_attention_heads=2,
            attention_head_dim=20,
            in_channels=8,
            out_channels=8,
            text_dim=16,
            freq_dim=24,
            ffn_dim=48,
            num_layers=2,
        ),
    )


def ti2v_22():
    request = dict(
        prompt="a bird in the sea",
        negative="",
        guidance=5.0,
        steps=4,
        width=96,
        height=64,
        frames=5,
    )
    return WanPipeline(**ti2v_22_parts(30), expand_timesteps=True), request


def i2v_22():
    request = dict(
        prompt="the fox runs",
        negative="blurry",
        guidance=3.0,
        steps=3,
        width=96,
        height=64,
        frames=9,
        image="image.png",
    )
    return WanImageToVideoPipeline(**ti2v_22_parts(40), expand_timesteps=True), request


def i2v_21():
    """Cases that the other pipelines do not have: 16-bit weights, an image with another aspect ratio, blocks without a norm
    before cross-attention, another order of temporal stages, an odd share of the channels for time, a timestep spacing."""
    tokens, vocab = tokenizer()
    parts = dict(
        tokenizer=tokens,
        text_encoder=text_encoder(vocab, 12, 1, 9, 20, 2, 51),
        vae=vae(52, 2, **(VAE_21 | dict(base_dim=3, dim_mult=[1, 2, 2, 3], temperal_downsample=[True, False, True]))),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=2.0, use_beta_sigmas=True),
        transformer=transformer(
            53,
            num_attention_heads=1,
            attention_head_dim=22,
            in_channels=2,
            out_channels=2,
            text_dim=12,
            freq_dim=8,
            ffn_dim=30,
            num_layers=2,
            cross_attn_norm=False,
            eps=1e-4,
        ),
    )
    request = dict(
        prompt="a green bird on the sea",
        guidance=1.0,
        steps=3,
        width=48,
        height=32,
        frames=9,
        image="image.png",
        image_size=[60, 30],
    )
    return WanImageToVideoPipeline(**parts, expand_timesteps=True), request


def picture(width, height):
    """A smooth image with an edge, different in every corner and channel."""
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width])[:, None, None]
    rgb = np.stack([x, y, 0.5 + 0.5 * np.sin(9 * x * y)], -1)
    rgb[height // 4 : height // 2, width // 3 : width // 2] = [0.9, 0.2, 0.1]
    return Image.fromarray((rgb * 255).round().astype(np.uint8))


def encode(vae, frames):
    """Encodes `[T, H, W, 3]` in [0, 1] to normalized latents."""
    mean, std = (torch.tensor(x).reshape(1, -1, 1, 1, 1) for x in (vae.config.latents_mean, vae.config.latents_std))
    video = frames.permute(3, 0, 1, 2)[None] * 2 - 1
    return (vae.encode(video).latent_dist.mode() - mean) / std


@torch.no_grad()
def make(name, build, shard=None, stored=None):
    pipeline, request = build()
    folder = FIXTURES / name
    shutil.rmtree(folder, ignore_errors=True)
    pipeline.save_pretrained(folder)
    if stored:
        # The reference computes in f32 with the rounded weights.
        for part in ("transformer", "vae", "text_encoder"):
            model = getattr(pipeline, part)
            for parameter in model.parameters():
                parameter.data = parameter.data.to(stored).float()
            copy.deepcopy(model).to(stored).save_pretrained(folder / part)
    if shard:
        for file in (folder / "transformer").glob("*.safetensors"):
            file.unlink()
        pipeline.transformer.save_pretrained(folder / "transformer", max_shard_size=shard)
    for file in list(folder.rglob("README.md")) + list(folder.rglob("chat_template*")):
        file.unlink()
    pipeline.set_progress_bar_config(disable=True)

    temporal, spatial = pipeline.vae_scale_factor_temporal, pipeline.vae_scale_factor_spatial
    shape = (
        1,
        pipeline.vae.config.z_dim,
        (request["frames"] - 1) // temporal + 1,
        request["height"] // spatial,
        request["width"] // spatial,
    )
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    expected = {"latents": latents}
    arguments = dict(
        prompt=request["prompt"],
        negative_prompt=request.get("negative"),
        height=request["height"],
        width=request["width"],
        num_frames=request["frames"],
        num_inference_steps=request["steps"],
        guidance_scale=request["guidance"],
        latents=latents.clone(),
        max_sequence_length=512,
    )
    if "image" in request:
        image = picture(*request.pop("image_size", (request["width"], request["height"])))
        image.save(folder / request["image"])
        arguments["image"] = image
        height, width = request["height"], request["width"]
        pixels = pipeline.video_processor.preprocess(image, height=height, width=width)
        _, condition, _ = pipeline.prepare_latents(
            pixels, 1, shape[1], height, width, request["frames"], torch.float32, "cpu", None, latents
        )
        # The normalized latents of the first frame, which stays fixed.
        expected["image_latents"] = condition

    prompt_embeds, negative_embeds = pipeline.encode_prompt(
        request["prompt"], request.get("negative"), request["guidance"] > 1, max_sequence_length=512
    )
    expected["prompt_embeds"] = prompt_embeds
    if negative_embeds is not None:
        expected["negative_prompt_embeds"] = negative_embeds

    # The second step: its timestep is not at the end of the schedule, so that a mask has an effect.
    calls = []
    forward = pipeline.transformer.forward

    def record(hidden_states, timestep, encoder_hidden_states, **rest):
        output = forward(hidden_states, timestep, encoder_hidden_states, **rest)
        calls.append((hidden_states, timestep, output[0]))
        return output

    pipeline.transformer.forward = record
    trace = []

    def step_end(_pipeline, _index, _timestep, state):
        trace.append(state["latents"].clone())
        return {}

    frames = pipeline(**arguments, output_type="np", callback_on_step_end=step_end).frames[0]
    final = trace[-1]
    if "image" in request:
        final = final.clone()
        final[:, :, 0] = expected["image_latents"][:, :, 0]
    hidden, timestep, output = calls[2 if request["guidance"] > 1 else 1]
    expected |= {
        "step_input": hidden,
        "step_timestep": timestep.to(torch.float32),
        "step_output": output,
        "trace": torch.stack(trace),
        "sampled_latents": final,
        "frames": torch.from_numpy(frames).float(),
        "encoded_frames": encode(pipeline.vae, torch.from_numpy(frames).float()),
    }
    save_file({key: value.contiguous() for key, value in expected.items()}, folder / "expected.safetensors")
    (folder / "request.json").write_text(json.dumps(request, indent=2, ensure_ascii=False) + "\n")

    inside = float(((expected["frames"] > 0) & (expected["frames"] < 1)).float().mean())
    print(
        f"{name}: latents {tuple(shape)} std {final.std():.2f}, velocity std {output.std():.2f}, "
        f"frames {tuple(frames.shape)} std {frames.std():.3f}, {inside:.0%} of them inside, "
        f"{sum(f.stat().st_size for f in folder.rglob('*') if f.is_file()) / 1e6:.2f} MB"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    make("t2v-unipc", t2v_unipc)
    make("t2v-euler", t2v_euler, shard="60KB")
    make("ti2v-22", ti2v_22)
    make("i2v-22", i2v_22)
    make("i2v-21", i2v_21, stored=torch.bfloat16)
