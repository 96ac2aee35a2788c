"""Records a TAEHV whose decoder has fewer residual blocks in tests/fixtures/decoder.safetensors.

The reference implementation is that of the training code, models/train/autoencoder.py, with narrow layers and random weights.

    python make_decoder.py
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "models" / "train"))
import autoencoder  # noqa: E402

BLOCKS = (1, 2, 0)


def main() -> None:
    autoencoder.ENCODER_WIDTH, autoencoder.DECODER_WIDTHS, autoencoder.LATENT_CHANNELS = 4, (8, 6, 4, 4), 6
    torch.manual_seed(0)
    model = autoencoder.Autoencoder(BLOCKS).eval()
    for name, weight in model.named_parameters():
        if "bias" in name:
            torch.nn.init.normal_(weight, std=0.2)
    latents = torch.randn(1, 3, 6, 2, 4)
    with torch.no_grad():
        frames = model.decode(latents).clamp(0, 1)
    tensors = {name: weight.detach().contiguous() for name, weight in model.named_parameters()}
    save_file({"latents": latents[0].contiguous(), "frames": frames[0].contiguous(), **tensors},
              ROOT / "tests" / "fixtures" / "decoder.safetensors")


if __name__ == "__main__":
    main()
