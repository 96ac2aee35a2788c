"""Creates two tiny models, like Wan 2.1 and Wan 2.2 TI2V-5B, in diffusers layout in tests/fixtures/layouts.

They have the real number of heads, latent channels and blocks, since other layouts do not store these. The tests convert
the models to all other layouts and compare frames.

    python make_layouts.py
"""

import shutil

import torch
from diffusers import UniPCMultistepScheduler, WanPipeline

import make_pipelines as tiny

FOLDER = tiny.FIXTURES.parent / "layouts"

BLOCKS = dict(dim_mult=[1, 2, 4, 4], num_res_blocks=2, temperal_downsample=[False, True, True])
MEAN_22 = """-0.2289 -0.0052 -0.1323 -0.2339 -0.2799 0.0174 0.1838 0.1557 -0.1382 0.0542 0.2813 0.0891 0.1570 -0.0098 0.0375 -0.1825
-0.2246 -0.1207 -0.0698 0.5109 0.2665 -0.2108 -0.2158 0.2502 -0.2055 -0.0322 0.1109 0.1567 -0.0729 0.0899 -0.2799 -0.1230
-0.0313 -0.1649 0.0117 0.0723 -0.2839 -0.2083 -0.0520 0.3748 0.0152 0.1957 0.1433 -0.2944 0.3573 -0.0548 -0.1681 -0.0667"""
STD_22 = """0.4765 1.0364 0.4514 1.1677 0.5313 0.4990 0.4818 0.5013 0.8158 1.0344 0.5894 1.0901 0.6885 0.6165 0.8454 0.4978 0.5759
0.3523 0.7135 0.6804 0.5833 1.4146 0.8986 0.5659 0.7069 0.5338 0.4889 0.4917 0.4069 0.4999 0.6866 0.4093 0.5709 0.6065
0.6415 0.4944 0.5726 1.2042 0.5458 1.6887 0.3971 1.0600 0.3943 0.5537 0.5444 0.4089 0.7468 0.7744"""


def transformer(seed, channels, layers):
    return tiny.transformer(
        seed,
        num_attention_heads=1,
        attention_head_dim=128,
        in_channels=channels,
        out_channels=channels,
        text_dim=32,
        freq_dim=32,
        ffn_dim=256,
        num_layers=layers,
    )


def wan21():
    tokens, vocab = tiny.tokenizer()
    vae = tiny.AutoencoderKLWan(base_dim=4, z_dim=16, **BLOCKS)
    return WanPipeline(
        tokenizer=tokens,
        text_encoder=tiny.text_encoder(vocab, 32, 2, 16, 64, 2, 61),
        vae=tiny.scramble(vae, 62, {"decoder.conv_out": 0.4}),
        scheduler=UniPCMultistepScheduler(**tiny.UNIPC, flow_shift=3.0),
        transformer=transformer(63, 16, 2),
    )


def wan22():
    tokens, vocab = tiny.tokenizer()
    vae = tiny.AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=6,
        z_dim=48,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        latents_mean=[float(x) for x in MEAN_22.split()],
        latents_std=[float(x) for x in STD_22.split()],
        **BLOCKS,
    )
    return WanPipeline(
        tokenizer=tokens,
        text_encoder=tiny.text_encoder(vocab, 32, 2, 16, 64, 1, 71),
        vae=tiny.scramble(vae, 72, {"decoder.conv_out": 0.4}),
        scheduler=UniPCMultistepScheduler(**tiny.UNIPC, flow_shift=5.0),
        transformer=transformer(73, 48, 1),
        expand_timesteps=True,
    )


if __name__ == "__main__":
    for name, build in (("wan-2.1", wan21), ("wan-2.2", wan22)):
        folder = FOLDER / name
        shutil.rmtree(folder, ignore_errors=True)
        pipeline = build()
        for part in ("transformer", "vae", "text_encoder"):
            getattr(pipeline, part).to(torch.bfloat16)
        pipeline.save_pretrained(folder)
        for file in list(folder.rglob("README.md")) + list(folder.rglob("chat_template*")):
            file.unlink()
