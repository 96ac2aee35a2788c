"""Records latents of the original inference code of StreamDiffusionV2, for a video that goes in, in
tests/fixtures/streamv2v.safetensors.

    python make_streamv2v.py STREAMDIFFUSION_V2 TAEHV

The arguments are checkouts of https://github.com/chenfengxu714/StreamDiffusionV2 (c5a0f20) and https://github.com/madebyollin/taehv.
Its pipeline runs without batches of steps (`streamv2v/inference_wo_batch.py`) over the miniature's transformer; README.md in this folder
says what else is replaced. The loop over the chunks is the one of that file.
"""

import ast
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import yaml
from make_original import CHANNELS, GRID, HEAD_DIM, HEADS, PROMPT, SEED, TOKENS, TRANSFORMER, attention, package, text, weights
from make_session import HEIGHT, MAX_TOKENS, WIDTH
from make_taehv import FIXTURE, build, encode
from noise import noise
from safetensors.torch import save_file

LATENTS = 14
STRENGTH = 0.8
FRAMES = 1 + 4 * (LATENTS - 1)


def video():
    """An edge that moves over a gradient, faster and faster, and another scene, u8 `[T, H, W, 3]`."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] / np.array([HEIGHT, WIDTH])[:, None, None]
    made = []
    for t in range(FRAMES):
        at = (t * t // 12) % WIDTH
        if t < 29:
            frame = np.stack([x, y, 0.5 + 0.5 * np.sin(9 * x * y)], -1)
            frame[HEIGHT // 4 :, at : at + 9] = [0.9, 0.2, 0.1]
        else:
            frame = np.stack([1 - y, 0.2 * x, np.full_like(x, 0.9)], -1)
            frame[: HEIGHT // 2, at : at + 5] = 0
        made.append(frame)
    return (np.stack(made) * 255).round().astype(np.uint8)


def pipeline(checkout, embed):
    """The pipeline of the original, with the miniature's transformer."""
    checkout, unused = Path(checkout), lambda *_, **__: None
    for name in ("models", "models.wan", "models.wan.wan_base", "models.wan.wan_base.modules"):
        package(name, checkout / name.replace(".", "/"))
    modules = "models.wan.wan_base.modules"
    package(f"{modules}.attention", attention=attention, flash_attention=attention)
    package(f"{modules}.tokenizers", HuggingfaceTokenizer=unused)
    package(f"{modules}.vae", _video_vae=unused)
    package(f"{modules}.t5", umt5_xxl=unused)
    package("models.wan.taehv_wrapper", TAEHVWanVAEWrapper=unused)
    package("models.model_interface", **{name: torch.nn.Module for name in ("TextEncoderInterface", "VAEInterface")},
            DiffusionModelInterface=importlib_interface(checkout))
    wrapper = importlib.import_module("models.wan.wan_wrapper")

    def small(_path):
        kind = importlib.import_module("models.wan.causal_model").CausalWanModel
        model = kind(
            patch_size=tuple(TRANSFORMER["patch_size"]), text_len=MAX_TOKENS, in_dim=CHANNELS, out_dim=CHANNELS, dim=HEADS * HEAD_DIM,
            ffn_dim=TRANSFORMER["ffn_dim"], freq_dim=TRANSFORMER["freq_dim"], text_dim=TRANSFORMER["text_dim"], num_heads=HEADS,
            num_layers=TRANSFORMER["num_layers"],
        )
        model.load_state_dict(weights())
        return model

    wrapper.WanModel.from_pretrained = staticmethod(lambda _path: torch.nn.Identity())
    wrapper.CausalWanModel.from_pretrained = staticmethod(small)
    encoder = lambda model_type: lambda text_prompts: {"prompt_embeds": torch.cat([embed(prompt) for prompt in text_prompts])}
    sys.modules["models"].__dict__.update(
        get_diffusion_wrapper=lambda model_name: wrapper.CausalWanDiffusionWrapper,
        get_text_encoder_wrapper=lambda model_name: encoder,
        get_vae_wrapper=lambda model_name: unused,
    )
    kind = importlib.import_module("models.wan.causal_stream_inference").CausalStreamInferencePipeline
    args = yaml.safe_load((checkout / "configs" / "wan_causal_dmd_v2v.yaml").read_text())
    made = kind(SimpleNamespace(**args, model_type="T2V-1.3B", t2v=False, height=GRID[0] * 16, width=GRID[1] * 16), "cpu")
    made.num_transformer_blocks, made.num_heads, made.frame_seq_length = TRANSFORMER["num_layers"], HEADS, TOKENS
    made.kv_cache_length = TOKENS * made.num_kv_cache
    for name in ("_initialize_kv_cache", "_initialize_crossattn_cache"):
        theirs = getattr(made, name)

        def initialize(*positional, _theirs=theirs, **named):
            _theirs(*positional, **named)
            for cache in made.kv_cache1:
                for part in "kv":
                    cache[part] = torch.zeros(*cache[part].shape[:2], HEADS, HEAD_DIM)

        if name == "_initialize_kv_cache":
            setattr(made, name, initialize)
    return made


def importlib_interface(checkout):
    """`DiffusionModelInterface` of the original."""
    spec = importlib.util.spec_from_file_location("models.model_interface_of_original", Path(checkout) / "models" / "model_interface.py")
    scheduler = importlib.util.spec_from_file_location("models.scheduler", Path(checkout) / "models" / "scheduler.py")
    for found in (scheduler, spec):
        module = importlib.util.module_from_spec(found)
        sys.modules[found.name] = module
        found.loader.exec_module(module)
    return module.DiffusionModelInterface


def function(path, name):
    """One function of a file whose other imports are not needed."""
    tree = ast.parse(Path(path).read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    content = {"torch": torch}
    exec(compile(tree, str(path), "exec"), content)  # noqa: S102
    return content[name]


@torch.no_grad()
def main(checkout, taehv_at):
    made, taehv, frames = pipeline(checkout, text()), build(taehv_at), video()
    level = function(Path(checkout) / "streamv2v" / "inference.py", "compute_noise_scale_and_step")
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)[None] / 255
    original, clean = pixels.transpose(1, 2) * 2 - 1, encode(taehv, pixels)
    drawn = iter(())

    def draw(first, count, step):
        return noise(SEED, 0, first, step, (1, CHANNELS, count, *GRID)).transpose(1, 2)

    torch.randn_like = lambda like: next(drawn).reshape(like.shape)
    canonical, found, scale = made.denoising_step_list.clone(), [], STRENGTH
    replaced = 0
    for i, (first, count) in enumerate([(0, 2), *((n, 1) for n in range(2, LATENTS))]):
        drawn = (draw(first, count, step + 1) for step in range(len(canonical) - 1))
        if i > 0:
            scale, current = level(original, 1 + 4 * (first + count - 1), 4, scale, STRENGTH)
        noisy = draw(first, count, 0) * scale + clean[:, first : first + count] * (1 - scale)
        start, end = first * TOKENS, (first + count) * TOKENS
        if i == 0:
            latents = made.prepare([PROMPT], "cpu", torch.float32, noise=noisy, current_start=start, current_end=end, batch_denoise=False)
        else:
            latents = made.inference_wo_batch(noise=noisy, current_start=start, current_end=end, current_step=current)
        found.append(latents)
        queues = [[entry[0] if entry else None for entry in block.self_attn.evict_idx] for block in made.generator.model.blocks]
        replaced += sum(front[0] is not None and front[0] <= 3 * TOKENS for front in queues)
        print(first, f"scale {scale:.3f}", "next written", queues)
    assert replaced > 0, "no frame of the sink was replaced"
    latents = torch.cat(found, 1).transpose(1, 2).contiguous()
    print(tuple(latents.shape), float(latents.std()))
    save_file({"video": torch.from_numpy(frames), "latents": latents}, FIXTURE.parent / "streamv2v.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
