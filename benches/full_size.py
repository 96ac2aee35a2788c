"""Creates a model with the size of Wan 2.1 T2V 1.3B and random weights: transformer in bf16, full autoencoder, UMT5-XXL in Q4_K.

    pip install torch diffusers gguf
    python benches/full_size.py DIR          # 7 GB
    /usr/bin/time -v soragen render "a fox" --model DIR --size 256x256 --frames 17 --steps 2 -o out.mp4

The output is noise, but time and memory use are realistic.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from gguf import GGMLQuantizationType, GGUFWriter

FIXTURE = Path(__file__).parent.parent / "tests/fixtures/layouts/wan-2.1"
UMT5 = {
    "model_type": "umt5", "vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24,
    "num_heads": 64, "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6, "feed_forward_proj": "gated-gelu",
}


def q4_k(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Blocks of 256 values in 144 bytes: two f16 factors, 12 bytes of scales, 128 bytes of values."""
    blocks = rng.integers(0, 256, (rows, columns // 256, 144), dtype=np.uint8)
    # Weights of about 1/√columns for any scales.
    factor = np.array([1 / (200 * columns**0.5)] * 2, dtype=np.float16)
    blocks[..., :4] = factor.view(np.uint8)
    return blocks.reshape(rows, -1)


def text_encoder(file: Path) -> None:
    """Writes UMT5 with the tensor names of llama.cpp's converter."""
    rng, writer = np.random.default_rng(0), GGUFWriter(file, "t5encoder")
    dim, inner, wide = UMT5["d_model"], UMT5["num_heads"] * UMT5["d_kv"], UMT5["d_ff"]

    def quantized(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(f"{name}.weight", q4_k(rng, rows, columns), raw_dtype=GGMLQuantizationType.Q4_K)

    def full(name: str, array: np.ndarray) -> None:
        writer.add_tensor(f"{name}.weight", array.astype(np.float32))

    quantized("token_embd", UMT5["vocab_size"], dim)
    full("enc.output_norm", np.ones(dim))
    for i in range(UMT5["num_layers"]):
        at = f"enc.blk.{i}"
        for name in "qkv":
            quantized(f"{at}.attn_{name}", inner, dim)
        quantized(f"{at}.attn_o", dim, inner)
        full(f"{at}.attn_rel_b", rng.standard_normal((UMT5["relative_attention_num_buckets"], UMT5["num_heads"])))
        full(f"{at}.attn_norm", np.ones(dim))
        full(f"{at}.ffn_norm", np.ones(dim))
        quantized(f"{at}.ffn_gate", wide, dim)
        quantized(f"{at}.ffn_up", wide, dim)
        quantized(f"{at}.ffn_down", dim, wide)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    folder = Path(sys.argv[1])
    for part in ("scheduler", "tokenizer"):
        shutil.copytree(FIXTURE / part, folder / part, dirs_exist_ok=True)
    shutil.copy(FIXTURE / "model_index.json", folder)
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, num_layers=30)
    transformer.bfloat16().save_pretrained(folder / "transformer")
    del transformer
    AutoencoderKLWan().save_pretrained(folder / "vae")
    (folder / "text_encoder").mkdir(exist_ok=True)
    (folder / "text_encoder/config.json").write_text(json.dumps(UMT5))
    text_encoder(folder / "text_encoder/model.gguf")


if __name__ == "__main__":
    main()
