"""Lists all tensors of the real models with their shapes in tests/fixtures/shapes, without creating weights.

    python make_shapes.py TAEHV

TAEHV is a checkout of https://github.com/madebyollin/taehv; its `taehv.py` is run.
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel, WanVACETransformer3DModel
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

FOLDER = Path(__file__).parent.parent / "fixtures" / "shapes"

# The sizes in diffusers' scripts/convert_wan_to_diffusers.py.
TRANSFORMERS = {
    "wan2.1-t2v-1.3b": dict(num_attention_heads=12, num_layers=30, ffn_dim=8960, in_channels=16, out_channels=16),
    "wan2.1-t2v-14b": dict(num_attention_heads=40, num_layers=40, ffn_dim=13824, in_channels=16, out_channels=16),
    "wan2.2-ti2v-5b": dict(num_attention_heads=24, num_layers=30, ffn_dim=14336, in_channels=48, out_channels=48),
}
IMAGES = dict(in_channels=36, out_channels=16, image_dim=1280, added_kv_proj_dim=5120)
WITH_IMAGES = {
    "wan2.1-i2v-14b": dict(num_attention_heads=40, num_layers=40, ffn_dim=13824, **IMAGES),
    "wan2.1-flf2v-14b": dict(num_attention_heads=40, num_layers=40, ffn_dim=13824, pos_embed_seq_len=514, **IMAGES),
}
VACE = {
    "wan2.1-vace-1.3b": dict(
        num_attention_heads=12, num_layers=30, ffn_dim=8960, in_channels=16, out_channels=16, vace_layers=list(range(0, 30, 2)),
        vace_in_channels=96,
    ),
    "wan2.1-vace-14b": dict(
        num_attention_heads=40, num_layers=40, ffn_dim=13824, in_channels=16, out_channels=16, vace_layers=list(range(0, 40, 5)),
        vace_in_channels=96,
    ),
}
CLIP_VIT_H = dict(
    hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, image_size=224, patch_size=14,
    hidden_act="gelu",
)
VAES = {
    "wan2.1-vae": {},
    "wan2.2-vae": dict(
        base_dim=160,
        decoder_base_dim=256,
        z_dim=48,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        # 48 values; they do not affect shapes.
        latents_mean=[0.0] * 48,
        latents_std=[1.0] * 48,
    ),
}
# By the autoencoder whose latents it decodes: patch size and channels.
TAEHVS = {"taew2_1": ("wan2.1-vae", 1, 16), "taew2_2": ("wan2.2-vae", 2, 48)}
UMT5_XXL = dict(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64)


def write(name, model, config):
    shapes = {key: list(value.shape) for key, value in sorted(model.state_dict().items())}
    # The same tensor as shared.weight, which files store once.
    shapes.pop("encoder.embed_tokens.weight", None)
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    text = json.dumps(dict(config=config, tensors=shapes), separators=(",", ":"))
    (FOLDER / f"{name}.json").write_text(text + "\n")
    print(name, len(shapes), "tensors,", sum(torch.Size(s).numel() for s in shapes.values()) / 1e9, "billion numbers")


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        for name, config in (TRANSFORMERS | WITH_IMAGES).items():
            model = WanTransformer3DModel(attention_head_dim=128, **config)
            write(name, model, dict(model.config))
        for name, config in VACE.items():
            model = WanVACETransformer3DModel(attention_head_dim=128, **config)
            write(name, model, dict(model.config))
        write("clip-vit-h", CLIPVisionModel(CLIPVisionConfig(**CLIP_VIT_H)), CLIP_VIT_H)
        for name, config in VAES.items():
            model = AutoencoderKLWan(**config)
            write(name, model, dict(model.config))
        write("umt5-xxl", UMT5EncoderModel(UMT5Config(**UMT5_XXL)), UMT5_XXL)
        taehv = {"__name__": "taehv"}
        exec((Path(sys.argv[1]) / "taehv.py").read_text(), taehv)
        for name, (vae, patch_size, channels) in TAEHVS.items():
            model = taehv["TAEHV"](None, patch_size=patch_size, latent_channels=channels)
            write(name, model, dict(AutoencoderKLWan(**VAES[vae]).config))
