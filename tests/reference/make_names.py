"""Lists the tensor names of Wan's parts in each checkpoint format, with the diffusers or transformers names, in
tests/fixtures/names.json. Weights are not stored.

    python make_names.py SELF_FORCING LONGLIVE WAN

SELF_FORCING, LONGLIVE and WAN are checkouts of https://github.com/guandeh17/Self-Forcing,
https://github.com/NVlabs/LongLive and https://github.com/Wan-Video/Wan2.1. Their `wan/modules` and `wan_5b/modules` are run; these
have the tensor names of the original checkpoints and of ComfyUI. diffusers converts them; the UMT5 names in GGUF are from llama.cpp (package `gguf`).
The script asserts that transformers and diffusers compute the same results with the renamed weights of UMT5 and of
Wan 2.2's autoencoder.
"""

import importlib.util
import json
import re
import sys
from pathlib import Path

import gguf
import torch
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers, convert_wan_vae_to_diffusers
from transformers import UMT5Config, UMT5EncoderModel

FILE = Path(__file__).parent.parent / "fixtures" / "names.json"
LAYERS = 2


def module(root: str, path: str, **stubs: object) -> object:
    """Imports one file of a checkout, without its packages."""
    file = Path(root) / path
    text = file.read_text()
    # The packages are not needed for tensor names.
    for line in text.splitlines():
        if line.startswith(("from .", "import torch.cuda", "from wan", "from utils", "import torchvision")):
            text = text.replace(line + "\n", "\n", 1)
    spec = importlib.util.spec_from_loader(file.stem, None)
    made = importlib.util.module_from_spec(spec)
    made.__dict__.update(stubs)
    text = text.replace("torch.cuda.current_device()", "None")
    exec(compile(text, str(file), "exec"), made.__dict__)  # noqa: S102
    return made


def pairs(state: dict, convert) -> list[list[str]]:
    """Traces each tensor through `convert` by a unique value."""
    numbered = {name: torch.full((3 if "qkv" in name else 1,), float(i)) for i, name in enumerate(state)}
    names = list(state)
    return [[names[int(tensor.flatten()[0])], name] for name, tensor in convert(dict(numbered)).items()]


def transformer(self_forcing: str) -> list[list[str]]:
    wan = module(self_forcing, "wan/modules/model.py", flash_attention=None, amp=torch.cuda.amp)
    model = wan.WanModel("t2v", dim=24, ffn_dim=16, num_heads=2, num_layers=LAYERS, text_dim=8, freq_dim=8)
    return pairs(model.state_dict(), convert_wan_transformer_to_diffusers)


def with_images(wan: str) -> list[list[str]]:
    """The model for the first and last image has all names of the other image-to-video models."""
    model = module(wan, "wan/modules/model.py", flash_attention=None, amp=torch.cuda.amp).WanModel(
        "flf2v", dim=24, ffn_dim=16, num_heads=2, num_layers=LAYERS, text_dim=8, freq_dim=8
    )
    found = pairs(model.state_dict(), convert_wan_transformer_to_diffusers)
    # diffusers renames it in its conversion script, and not in a single file.
    return [[name, to.replace("img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed")] for name, to in found]


def vace(wan: str) -> list[list[str]]:
    base = module(wan, "wan/modules/model.py", flash_attention=None, amp=torch.cuda.amp)
    parts = ("WanAttentionBlock", "WanModel", "sinusoidal_embedding_1d")
    model = module(wan, "wan/modules/vace_model.py", amp=torch.cuda.amp, **{part: getattr(base, part) for part in parts}).VaceWanModel(
        vace_layers=[0, 1], vace_in_dim=8, dim=24, ffn_dim=16, num_heads=2, num_layers=LAYERS, text_dim=8, freq_dim=8
    )
    return pairs(model.state_dict(), convert_wan_transformer_to_diffusers)


def umt5(self_forcing: str) -> tuple[list[list[str]], list[list[str]]]:
    wan = module(self_forcing, "wan/modules/t5.py", HuggingfaceTokenizer=None)
    torch.manual_seed(0)
    sizes = dict(vocab=30, dim=16, dim_attn=16, dim_ffn=32, num_heads=2, num_layers=LAYERS, num_buckets=32)
    theirs = wan.T5Encoder(**sizes, shared_pos=False, dropout=0.0).eval()
    config = UMT5Config(
        vocab_size=30, d_model=16, d_kv=8, d_ff=32, num_layers=LAYERS, num_heads=2, feed_forward_proj="gated-gelu",
    )
    ours = UMT5EncoderModel(config).eval()
    table = {"token_embedding": "shared", "norm": "encoder.final_layer_norm"}
    for i in range(LAYERS):
        block, other = f"encoder.block.{i}.layer.", f"blocks.{i}."
        table |= {f"{other}attn.{x}": f"{block}0.SelfAttention.{x}" for x in "qkvo"}
        table[f"{other}pos_embedding.embedding"] = f"{block}0.SelfAttention.relative_attention_bias"
        table |= {f"{other}norm1": f"{block}0.layer_norm", f"{other}norm2": f"{block}1.layer_norm"}
        dense = {"gate.0": "wi_0", "fc1": "wi_1", "fc2": "wo"}
        table |= {f"{other}ffn.{a}": f"{block}1.DenseReluDense.{b}" for a, b in dense.items()}
    found = [[f"{a}.weight", f"{b}.weight"] for a, b in table.items()]
    weights = theirs.state_dict()
    assert set(weights) == {a for a, _ in found}
    renamed = {b: weights[a] for a, b in found}
    missing, unexpected = ours.load_state_dict(renamed, strict=False)
    assert set(missing) <= {"encoder.embed_tokens.weight"} and not unexpected, (missing, unexpected)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        difference = theirs(ids, torch.ones_like(ids)) - ours(ids).last_hidden_state
    assert difference.abs().max() < 1e-5, difference.abs().max()

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, LAYERS)
    return found, [[names.get_name(b, try_suffixes=(".weight",)), b] for _, b in found]


def vae22(longlive: str) -> list[list[str]]:
    wan = module(longlive, "wan_5b/modules/vae2_2.py")
    torch.manual_seed(0)
    theirs = wan.WanVAE_(dim=8, dec_dim=8, z_dim=4, temperal_downsample=[False, True, True]).eval()
    ours = AutoencoderKLWan(
        base_dim=8, decoder_base_dim=8, z_dim=4, is_residual=True, patch_size=2, in_channels=12, out_channels=12,
        scale_factor_spatial=16, latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    ).eval()
    rules = (
        (r"^conv1\.", "quant_conv."), (r"^conv2\.", "post_quant_conv."), (r"coder\.conv1\.", "coder.conv_in."),
        (r"\.head\.0\.", ".norm_out."), (r"\.head\.2\.", ".conv_out."), (r"\.middle\.1\.", ".mid_block.attentions.0."),
        (r"\.middle\.0\.", ".mid_block.resnets.0."), (r"\.middle\.2\.", ".mid_block.resnets.1."),
        (r"downsamples\.(\d)\.downsamples\.(\d)\.(resample|time_conv)", r"down_blocks.\1.downsampler.\3"),
        (r"downsamples\.(\d)\.downsamples\.(\d)", r"down_blocks.\1.resnets.\2"),
        (r"upsamples\.(\d)\.upsamples\.(\d)\.(resample|time_conv)", r"up_blocks.\1.upsampler.\3"),
        (r"upsamples\.(\d)\.upsamples\.(\d)", r"up_blocks.\1.resnets.\2"),
        (r"residual\.0\.", "norm1."), (r"residual\.2\.", "conv1."), (r"residual\.3\.", "norm2."), (r"residual\.6\.", "conv2."),
        (r"\.shortcut\.", ".conv_shortcut."),
    )
    found, weights = [], theirs.state_dict()
    for name in weights:
        other = name
        for pattern, to in rules:
            other = re.sub(pattern, to, other)
        found.append([name, other])
    ours.load_state_dict({other: weights[name] for name, other in found}, strict=True)
    z = torch.randn(1, 4, 3, 2, 2)
    with torch.no_grad():
        difference = theirs.decode(z, [0.0, 1.0]).clamp(-1, 1) - ours.decode(z).sample
    assert difference.abs().max() < 1e-4, difference.abs().max()
    return found


def main() -> None:
    self_forcing, longlive, wan = sys.argv[1:]
    vae21 = module(self_forcing, "wan/modules/vae.py").WanVAE_(dim=8, z_dim=4, temperal_downsample=[False, True, True])
    original, llama = umt5(self_forcing)
    names = {
        "transformer": transformer(self_forcing),
        "transformer-images": with_images(wan),
        "transformer-vace": vace(wan),
        "umt5": original,
        "umt5-gguf": llama,
        "vae-2.1": pairs(vae21.state_dict(), convert_wan_vae_to_diffusers),
        "vae-2.2": vae22(longlive),
    }
    lines = [
        f' "{kind}": [\n' + ",\n".join(f"  {json.dumps(pair)}" for pair in found) + "\n ]" for kind, found in names.items()
    ]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
