"""Creates a narrow TAEHV in tests/fixtures/miniature, and reference results of the original code.

    python make_taehv.py TAEHV

TAEHV is a checkout of https://github.com/madebyollin/taehv; its `taehv.py` is run.
"""

import json
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

FIXTURE = Path(__file__).parent.parent / "fixtures" / "miniature"
PATCH, LATENT_CHANNELS = 2, 6
NARROWER = 16
DOWNSCALE, UPSCALE = (True, True, False), (False, True, True)
HEIGHT, WIDTH, FRAMES = 16, 32, 13


def narrow(model):
    """Random weights for every layer, with fewer hidden channels."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            channels = [n // NARROWER if n >= 64 else n for n in module.weight.shape[:2]]
            weight = torch.randn(*channels, *module.weight.shape[2:], generator=generator)
            # ReLU halves the activations.
            module.weight = nn.Parameter(weight * math.sqrt(2 / weight[0].numel()))
            if module.bias is not None:
                module.bias = nn.Parameter(0.2 * torch.randn(channels[0], generator=generator))


@torch.no_grad()
def build(checkout):
    module = {"__name__": "taehv"}
    exec((Path(checkout) / "taehv.py").read_text(), module)
    model = module["TAEHV"](None, DOWNSCALE, UPSCALE, patch_size=PATCH, latent_channels=LATENT_CHANNELS)
    narrow(model)
    # Most pixels within the clamp range.
    model.decoder[-1].weight *= 0.3
    model.decoder[-1].bias += 0.5
    return model


def encode(model, video):
    """Encodes `[1, T, 3, H, W]`; the first frame is repeated to fill the first latent frame."""
    return model.encode_video(torch.cat([video[:, :1].repeat(1, 3, 1, 1, 1), video], 1), show_progress_bar=False)


@torch.no_grad()
def main():
    model = build(sys.argv[1])
    generator = torch.Generator().manual_seed(6)
    video = torch.rand(1, FRAMES, 3, HEIGHT, WIDTH, generator=generator)
    latents = encode(model, video)
    frames = model.decode_video(latents, show_progress_bar=False)

    (FIXTURE / "vae").mkdir(parents=True, exist_ok=True)
    config = dict(
        _class_name="AutoencoderTAEHV",
        patch_size=PATCH,
        latent_channels=LATENT_CHANNELS,
        encoder_width=64 // NARROWER,
        decoder_widths=[n // NARROWER for n in (256, 128, 64, 64)],
        temporal_downscale=DOWNSCALE,
        temporal_upscale=UPSCALE,
        spatial_upscale=(True, True, True),
    )
    (FIXTURE / "vae" / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(model.state_dict(), FIXTURE / "vae" / "diffusion_pytorch_model.safetensors")
    expected = {
        # Layouts of the autoencoder interface: [1, C, T, H, W] in [-1, 1], [1, z, t, h, w], [T, H, W, C] in [0, 1].
        "video": video.transpose(1, 2) * 2 - 1,
        "latents": latents.transpose(1, 2),
        "frames": frames[0].permute(0, 2, 3, 1),
    }
    save_file({key: value.contiguous() for key, value in expected.items()}, FIXTURE / "taehv.safetensors")
    inside = float(((frames > 0) & (frames < 1)).float().mean())
    print(f"latents {tuple(latents.shape)} std {latents.std():.2f}, frames {tuple(frames.shape)}, {inside:.0%} inside")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
