"""The measurements of `benches/wan.rs` with torch and diffusers.

    python benches/wan.py f32|bf16|vae|taehv 256x256x17
    python benches/wan.py umt5|umt5-bf16 24

The argument of `umt5` is the number of tokens; diffusers' pipelines always pad to 512. `taehv` needs the folder of https://github.com/madebyollin/taehv in PYTHONPATH.
"""

import os
import sys
import time

import torch

part = sys.argv[1] if len(sys.argv) > 1 else "f32"
size = sys.argv[2] if len(sys.argv) > 2 else "24" if part.startswith("umt5") else "256x256x17"
torch.set_num_threads(os.cpu_count())
torch.set_default_dtype(torch.bfloat16 if part.endswith("bf16") else torch.float32)
if not part.startswith("umt5"):
    width, height, frames = map(int, size.split("x"))
    latents = torch.randn(1, 16, -(-frames // 4), height // 8, width // 8)
match part:
    case "f32" | "bf16":
        from diffusers import WanTransformer3DModel

        model = WanTransformer3DModel(num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, num_layers=30).eval()
        text = torch.randn(1, 512, 4096)
        run = lambda: model(latents, torch.tensor([500]), text)
    case "umt5" | "umt5-bf16":
        from transformers import UMT5Config, UMT5EncoderModel

        model = UMT5EncoderModel(UMT5Config(
            vocab_size=1024, d_model=4096, d_ff=10240, num_layers=4, num_heads=64, feed_forward_proj="gated-gelu"
        )).eval()
        tokens = torch.arange(1, int(size) + 1)[None]
        run = lambda: model(tokens)
    case "vae":
        from diffusers import AutoencoderKLWan

        model = AutoencoderKLWan().eval()
        run = lambda: model.decode(latents)
    case "taehv":
        from taehv import TAEHV

        model = TAEHV(checkpoint_path=None).eval()
        run = lambda: model.decode_video(latents.transpose(1, 2), parallel=False, show_progress_bar=False)
with torch.inference_mode():
    for _ in range(3):
        start, busy = time.perf_counter(), time.process_time()
        run()
        wall, cpu = time.perf_counter() - start, time.process_time() - busy
        print(f"torch {torch.__version__} {part} {size}: {wall:.2f} s elapsed, {cpu:.2f} s of processor time", flush=True)
