"""Records chunks of a transformer with references in tests/fixtures/references.

The reference implementation is that of the training code, models/train/transformer.py, in the size of the miniature model: one
reference has a place in each latent frame, leaves, and comes back, with the camera at rest and moving, and with an overlay; the other has none. Also writes a bank of a few drawings, and the world of
the model; its other parts are those of the miniature model.

    python make_references.py
"""

import io

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "models" / "train"))
import transformer  # noqa: E402

FOLDER = ROOT / "tests" / "fixtures" / "references"
SIZES = {
    "HEADS": 2, "HEAD_DIM": 12, "LAYERS": 2, "DIM": 24, "FFN_DIM": 32, "FREQ_DIM": 16, "TEXT_DIM": 16, "CHANNELS": 6, "PATCH": (1, 2),
    "WINDOW": 2, "SINK": 1, "MAX_TOKENS": 12, "DEPTHS": (0.5, 1.0), "COLUMN": 16, "FARTHEST": 3,
}
HEIGHT, WIDTH, SIDE = 2, 6, 2  # of a latent frame and of a reference, in latents
FRAMES = 5
# Row and column in latents, or None where a frame does not show the first reference.
PLACES = [(0, 0), (1, 3), None, (-1, 5), (0, -1)]
CAMERA = [0, 16, 24, 40, 88]  # pixels to the right; in the last frame the first one is farther away than trained


# Name, other names, keywords, element, colour.
DRAWINGS = (
    ("fox", ("red fox",), ("animal", "vixen"), "land", "orangered"), ("owl", (), ("animal", "night"), "air", "sienna"),
    ("steam-train", ("train",), ("railway",), "road", "dimgray"), ("sun", (), (), "space", "gold"), ("dog", (), ("puppy",), "land", "tan"),
    ("wolf", (), (), "land", "gray"),
)
WORLD = {
    "side": 32, "max_references": 2, "afloat": 8, "top": 8, "step": 8, "pan": 8,
    "motions": {
        "stand": {"verbs": {"*": ["stands", "waits"]}, "dx": [0], "dy": [0], "camera": 0, "turn": 0},
        "walk": {"verbs": {"*": ["walks{dir}"]}, "dx": [8], "dy": [0], "camera": 8, "turn": 4},
        "cross": {"verbs": {"land": ["runs{dir}"], "road": ["drives{dir}"], "air": ["flies{dir}"]}, "dx": [8], "dy": [0], "camera": 0, "turn": 0,
                  "also": {"*": ["rises", "crosses"]}},
        "jump": {"verbs": {"*": ["jumps"]}, "dx": [0], "dy": [-8, 8], "camera": 0, "turn": 0},
        "pace": {"verbs": {"*": ["goes back and forth"]}, "dx": [8], "dy": [0], "camera": 0, "turn": 2, "adverbs": ["back and forth"]},
    },
    "places": {
        "meadow": {"phrases": ["in a green meadow", "on the grass"], "ground": 0, "floats": None},
        "sea": {"phrases": ["on the sea"], "ground": 0, "floats": False},
        "space": {"phrases": ["in space", "among the stars"], "ground": 0, "floats": True},
    },
    "settings": ["at night", "in the rain", "before the setting sun"],
}
SORAGEN = {
    "format": 1, "name": "puppets", "frame_rate": [16, 1], "sizes": [[96, 32]], "natural_latents": 5,
    "causal": {"chunk": 1, "window": 2, "sink": 1, "context_noise": 0.0, "timesteps": [1000.0, 600.0], "sampler": "euler", "prediction": "sample"},
    "guidance_scale": 1.0, "max_text_tokens": 12,
}


def write_bank(folder: Path) -> None:
    """Half circles that look to the left."""
    folder.mkdir(exist_ok=True)
    index, data = [], b""
    for name, names, keywords, element, colour in DRAWINGS:
        image = Image.new("RGBA", (16, 16))
        ImageDraw.Draw(image).pieslice((1, 1, 14, 14), 60, 300, colour)
        packed = io.BytesIO()
        image.save(packed, "WEBP", lossless=True)
        index.append({
            "name": name, "names": [name.replace("-", " "), *names], "keywords": keywords, "element": element,
            "at": [len(data), packed.tell()],
        })
        data += packed.getvalue()
    (folder / "drawings.bin").write_bytes(data)
    (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n")
    features = np.random.default_rng(0).normal(size=(len(index), SIZES["TEXT_DIM"]))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    (folder / "features.bin").write_bytes(np.round(127 * features).astype(np.int8).tobytes())


def main() -> None:
    for name, value in SIZES.items():
        setattr(transformer, name, value)
    torch.manual_seed(0)
    model = transformer.Transformer().eval()
    for name, weight in model.named_parameters():
        # Larger than those of a new model, so that every input counts.
        torch.nn.init.normal_(weight, 1.0 if "norm" in name and weight.ndim == 1 and "bias" not in name else 0.0, 0.3)
    video = torch.randn(1, FRAMES, SIZES["CHANNELS"], HEIGHT, WIDTH)
    features = torch.randn(1, SIZES["MAX_TOKENS"], SIZES["TEXT_DIM"])
    pictures, alpha = torch.randn(2, 1, 1, SIZES["CHANNELS"], SIDE, SIDE), torch.rand(2, 1, 1, 4, SIDE, SIDE)
    overlays = torch.cat([torch.randn(1, FRAMES, SIZES["CHANNELS"], HEIGHT, WIDTH), torch.rand(1, FRAMES, 4, HEIGHT, WIDTH)], 2)
    places = torch.tensor([place or (0, 0) for place in PLACES])[None, :, None]
    shown = torch.tensor([place is not None for place in PLACES])[None, :, None]

    outputs = {}
    with torch.no_grad():
        text = model.text(features)
        for name, picture, placed in (("placed", 0, True), ("moved", 0, True), ("free", 1, False), ("covered", 0, True)):
            references = transformer.References(
                pictures[picture], alpha[picture], places, shown if placed else shown | True, torch.tensor([placed]), overlays * (name == "covered"),
            )
            known, caches = model.remember(references, text), [transformer.Cache() for _ in model.blocks]
            made = []
            for frame in range(FRAMES):
                at, seen = references.at([frame]), known.at([frame])
                camera = torch.tensor([CAMERA])[:, transformer.remembered([*range(frame)]) + [frame]] if name == "moved" else None
                made.append(model.chunk(video[:, frame : frame + 1], 600.0, text, caches, False, at, seen, camera))
                model.chunk(video[:, frame : frame + 1], 0.0, text, caches, True, at, seen, camera)
            outputs[name] = torch.cat(made, 1)

    folder = FOLDER / "transformer"
    folder.mkdir(parents=True, exist_ok=True)
    config = transformer.CONFIG | {
        "attention_head_dim": SIZES["HEAD_DIM"], "camera_depths": list(SIZES["DEPTHS"]), "ffn_dim": SIZES["FFN_DIM"], "freq_dim": SIZES["FREQ_DIM"], "in_channels": SIZES["CHANNELS"],
        "num_attention_heads": SIZES["HEADS"], "num_layers": SIZES["LAYERS"], "out_channels": SIZES["CHANNELS"],
        "patch_size": [1, *SIZES["PATCH"]], "rope_max_seq_len": 16, "text_dim": SIZES["TEXT_DIM"],
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (FOLDER / "world.json").write_text(json.dumps(WORLD, indent=1) + "\n")
    (FOLDER / "soragen.json").write_text(json.dumps(SORAGEN, indent=1) + "\n")
    (FOLDER / "model_index.json").write_text((FOLDER.parent / "miniature" / "model_index.json").read_text())
    write_bank(FOLDER / "bank")
    save_file({name: weight.contiguous() for name, weight in model.state_dict().items()}, folder / "diffusion_pytorch_model.safetensors")
    wide = lambda x: x.transpose(1, 2).contiguous()  # [B, C, F, H, W]
    save_file(
        {"video": wide(video), "text": features, "pictures": wide(pictures.flatten(0, 1)), "alpha": wide(alpha.flatten(0, 1)), "overlay": wide(overlays),
         **{name: wide(x) for name, x in outputs.items()}},
        FOLDER / "chunks.safetensors",
    )


if __name__ == "__main__":
    main()
