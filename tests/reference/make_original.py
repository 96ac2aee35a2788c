"""Records latents of the original inference code of LongLive 1.0 and Causal-Forcing in
tests/fixtures/original.safetensors and original.json: prompt switches, few-step schedules, an image.

    python make_original.py LONGLIVE CAUSAL_FORCING TAEHV

The arguments are checkouts of https://github.com/NVlabs/LongLive (branch v1.0, e52d9ef),
https://github.com/thu-ml/Causal-Forcing (1fc7bbc) and https://github.com/madebyollin/taehv (1f14a56). README.md in this
folder says what is replaced. Made with torch 2.8.0, diffusers 0.42.1, transformers 5.24.0.
"""

import importlib
import json
import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
import torch.nn.functional as F
import yaml
from make_session import GRID, HEIGHT, MAX_TOKENS, OTHER, PROMPT, WIDTH
from make_shots import THIRD, text
from make_taehv import FIXTURE, build, encode
from noise import noise
from PIL import Image
from safetensors.torch import load_file, save_file

SEED = 7
PROMPTS = [PROMPT, OTHER, THIRD, PROMPT]
TRANSFORMER = json.loads((FIXTURE / "transformer" / "config.json").read_text())
HEADS, HEAD_DIM = TRANSFORMER["num_attention_heads"], TRANSFORMER["attention_head_dim"]
CHANNELS, TOKENS = TRANSFORMER["in_channels"], GRID[0] * GRID[1]

# The latents at which the prompt changes, to the next of PROMPTS.
SWITCHES = {"9": [9], "12": [12], "15": [15], "24": [24], "all": [9, 15, 24]}


def attention(q, k, v, **_):
    """Full attention in f32, in place of flash-attention in bf16."""
    return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


def package(name, folder=None, **content):
    module = sys.modules[name] = ModuleType(name)
    if folder is not None:
        module.__path__ = [str(folder)]
    module.__dict__.update(content)


@contextmanager
def original(checkout):
    """Imports from `checkout`, without the modules that need a GPU, flash-attention or Wan's other weights."""
    before, checkout = set(sys.modules), Path(checkout)
    unused = lambda *_, **__: None
    for name in ("pipeline", "wan", "utils"):
        package(name, checkout / name)
    package("wan.modules", checkout / "wan" / "modules")
    package("wan.modules.attention", attention=attention, flash_attention=attention)
    package("wan.modules.tokenizers", HuggingfaceTokenizer=unused)
    package("wan.modules.vae", _video_vae=unused)
    package("wan.modules.t5", umt5_xxl=unused)
    memory = {"gpu": torch.device("cpu"), "cpu": torch.device("cpu")}
    names = ("get_cuda_free_memory_gb", "DynamicSwapInstaller", "move_model_to_device_with_memory_preservation", "log_gpu_memory")
    package("demo_utils")
    for name in ("utils.memory", "demo_utils.memory"):
        package(name, **memory, **dict.fromkeys(names, unused))
    try:
        yield lambda name: importlib.import_module(name)
    finally:
        for name in set(sys.modules) - before:
            if name.split(".")[0] in ("pipeline", "wan", "utils", "demo_utils"):
                del sys.modules[name]


class Arguments(SimpleNamespace):
    """A configuration of the original."""

    def __init__(self, path, **change):
        super().__init__(**yaml.safe_load(Path(path).with_name("default_config.yaml").read_text()))
        self.__dict__.update(yaml.safe_load(Path(path).read_text()), **change)
        self.model_kwargs = SimpleNamespace(**self.model_kwargs)


def weights():
    """The miniature's transformer with the names of the original."""
    pairs = json.loads((FIXTURE.parent / "names.json").read_text())["transformer"]
    tensors = load_file(FIXTURE / "transformer" / "diffusion_pytorch_model.safetensors")
    return {theirs: tensors[ours] for theirs, ours in pairs if ours in tensors}


def generator(load, args):
    """The original's wrapper around its transformer, in the miniature's size."""
    wrapper = load("utils.wan_wrapper")
    options = vars(args.model_kwargs)

    def small(kind):
        def from_pretrained(_path, **attention):
            model = kind(
                patch_size=tuple(TRANSFORMER["patch_size"]),
                text_len=MAX_TOKENS,
                in_dim=CHANNELS,
                out_dim=CHANNELS,
                dim=HEADS * HEAD_DIM,
                ffn_dim=TRANSFORMER["ffn_dim"],
                freq_dim=TRANSFORMER["freq_dim"],
                text_dim=TRANSFORMER["text_dim"],
                num_heads=HEADS,
                num_layers=TRANSFORMER["num_layers"],
                **attention,
            )
            model.load_state_dict(weights())
            return model

        return from_pretrained

    for name in ("CausalWanModel", "CausalWanModelInfinity"):
        if hasattr(wrapper, name):
            kind = getattr(wrapper, name)
            kind.from_pretrained = staticmethod(small(kind))
    return wrapper.WanDiffusionWrapper(**options, is_causal=True)


def pipeline(kind, load, args, embed):
    vae = SimpleNamespace(decode_to_pixel=lambda latents, use_cache: latents)
    encoder = lambda text_prompts: {"prompt_embeds": torch.cat([embed(prompt) for prompt in text_prompts])}
    made = kind(args, "cpu", generator=generator(load, args), text_encoder=encoder, vae=vae)
    made.num_transformer_blocks, made.frame_seq_length = TRANSFORMER["num_layers"], TOKENS
    theirs = made._initialize_kv_cache

    def initialize(*positional, **named):
        theirs(*positional, **named)
        for cache in made.kv_cache1:
            for name in "kv":
                cache[name] = torch.zeros(*cache[name].shape[:2], HEADS, HEAD_DIM)

    made._initialize_kv_cache = initialize
    return made


def chunks(chunk, count, done):
    return [(first, min(chunk, count)) for first in range(done, count, chunk)]


def initial(pieces):
    """Noise `[1, T, C, H, W]`."""
    drawn = [noise(SEED, 0, first, 0, (1, CHANNELS, count, *GRID)) for first, count in pieces]
    return torch.cat(drawn, 2).transpose(1, 2).contiguous()


@contextmanager
def fresh(pieces, steps):
    """`torch.randn_like` draws the noise that the engine adds between the steps; `steps` of the first chunk and of the others."""
    drawn = (
        noise(SEED, 0, first, step + 1, (1, CHANNELS, count, *GRID))[0].transpose(0, 1)
        for i, (first, count) in enumerate(pieces)
        for step in range(steps[min(i, 1)] - 1)
    )
    theirs, torch.randn_like = torch.randn_like, lambda like: next(drawn).reshape(like.shape)
    try:
        yield
    finally:
        torch.randn_like = theirs
    assert next(drawn, None) is None, "the original drew fewer times"


def longlive(checkout, configuration, switches, count, embed):
    with original(checkout) as load:
        args = Arguments(Path(checkout) / "configs" / configuration)
        kind = load("pipeline.interactive_causal_inference").InteractiveCausalInferencePipeline
        made, pieces = pipeline(kind, load, args, embed), chunks(args.num_frame_per_block, count, 0)
        with fresh(pieces, [len(args.denoising_step_list)] * 2):
            prompts = [[prompt] for prompt in PROMPTS[: len(switches) + 1]]
            return made.inference(
                initial(pieces), text_prompts_list=prompts, switch_frame_indices=switches, return_latents=True
            )[1]


def causal_forcing(checkout, configuration, count, embed, image=None, **change):
    with original(checkout) as load:
        args = Arguments(Path(checkout) / "configs" / configuration, **change)
        made = pipeline(load("pipeline.causal_inference").CausalInferencePipeline, load, args, embed)
        pieces = chunks(args.num_frame_per_block, count, 0 if image is None else 1)
        first = getattr(args, "denoising_step_list_first_chunk", None) or args.denoising_step_list
        with fresh(pieces, [len(first), len(args.denoising_step_list)]):
            return made.inference(initial(pieces), [PROMPT], initial_latent=image, return_latents=True)[1]


def image_latents(taehv):
    picture = Image.open(FIXTURE / "image.png").convert("RGB")
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(1, 1, HEIGHT, WIDTH, 3)
    return encode(taehv, pixels.permute(0, 1, 4, 2, 3) / 255)


def differ(a, b):
    return float((a - b).abs().max())


@torch.no_grad()
def main(longlive_at, causal_forcing_at, taehv_at):
    embed, image = text(), image_latents(build(taehv_at))
    latents, cases = {}, {}

    def record(name, recipe, made, **case):
        latents[name] = made.transpose(1, 2).contiguous()
        cases[name] = {"recipe": recipe, "latents": made.shape[1], **case}
        print(f"{name}: {tuple(latents[name].shape)}, std {made.std():.2f}")

    for recipe, configuration in (
        ("longlive", "longlive_inference_infinity.yaml"),
        ("longlive-absolute", "longlive_inference.yaml"),
    ):
        plain = longlive(longlive_at, configuration, [], 27, embed)
        for name, switches in SWITCHES.items():
            count = switches[-1] + (3 if name == "all" else 6)
            made = longlive(longlive_at, configuration, switches, count, embed)
            shots = [[at, prompt] for at, prompt in zip([0, *switches], PROMPTS)]
            record(f"{recipe}-{name}", recipe, made, prompts=shots)
            print("    the prompt changes it by", differ(made[:, switches[0] : 27], plain[:, switches[0] : count]))
    made = causal_forcing(causal_forcing_at, "causal_forcing_dmd_chunkwise.yaml", 9, embed)
    record("causal-forcing", "causal-forcing", made, prompts=[[0, PROMPT]])
    for steps in (1, 2, 4):
        configuration = "causal_forcing_dmd_framewise" + {4: ""}.get(steps, f"_{steps}step") + ".yaml"
        recipe = f"causal-forcing-framewise-{steps}"
        # One step for every frame too, which the original's configuration does not do.
        variants = {"": {}, "-alone": {"denoising_step_list_first_chunk": None}} if steps == 1 else {"": {}}
        for variant, change in variants.items():
            causal = {"causal": {"first_timesteps": None}} if variant else {}
            for name, first in (("", None), ("-image", image)):
                made = causal_forcing(causal_forcing_at, configuration, 7, embed, first, **change)
                image_case = {"image": True} if first is not None else {}
                record(recipe + variant + name, recipe, made, prompts=[[0, PROMPT]], **causal, **image_case)

    save_file(latents, FIXTURE.parent / "original.safetensors")
    (FIXTURE.parent / "original.json").write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
